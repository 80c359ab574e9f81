"""GGUF files as small as llama.cpp accepts, and the raw bytes to build every kind of broken one.

The encoder is the tests' own: it checks nothing, and uses nothing of the packages under test.

`TinyGguf.of("qwen3moe")` is a random model that loads and decodes; change its `pairs`, `tensors` or `raw` parts, then
write it. Values are (type number, value); an array is (ARRAY, (element type number, list)).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
_TYPE_BYTES = {0: (1, 4), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 26: (1, 4), 8: (32, 34), 12: (256, 144)}

Value = tuple[int, Any]


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value_bytes(value_type: int, value: Any) -> bytes:
    """Return a value without its type."""
    if value_type == STRING:
        return string(value)
    if value_type == ARRAY:
        element_type, elements = value
        body = b"".join(value_bytes(element_type, element) for element in elements)
        return struct.pack("<IQ", element_type, len(elements)) + body
    return struct.pack("<" + _FORMATS[value_type], value)


def pair(key: str | bytes, value_type: int, value: Any) -> bytes:
    return string(key) + struct.pack("<I", value_type) + value_bytes(value_type, value)


def tensor_info(name: str | bytes, dims: tuple[int, ...], type_id: int, offset: int) -> bytes:
    """Return a tensor info; `dims` innermost first, as the file has them."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


def padded(data: bytes, alignment: int = 32) -> bytes:
    return data + bytes(-len(data) % alignment)


def header(pairs: list[bytes], tensors: list[bytes], version: int = 3, magic: bytes = b"GGUF") -> bytes:
    """Return an unpadded header."""
    return magic + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)


@dataclass(slots=True)
class TinyTensor:
    """Shape in numpy order; None as data stands for random numbers."""

    shape: tuple[int, ...]
    type_id: int = 0
    data: bytes | None = None

    def to_bytes(self, generator: np.random.Generator) -> bytes:
        if self.data is not None:
            return self.data
        n_weights = int(np.prod(self.shape))
        if self.type_id == 0:
            return (generator.standard_normal(n_weights, dtype=np.float32) * 0.1).astype("<f4").tobytes()
        block, block_bytes = _TYPE_BYTES[self.type_id]
        return bytes(n_weights // block * block_bytes)  # zeros are zeros in every type


@dataclass(slots=True)
class TinyGguf:
    """A model in parts."""

    pairs: dict[str, Value]
    tensors: dict[str, TinyTensor]
    alignment: int = 32
    extra_pairs: list[bytes] = field(default_factory=list)  # appended as they are

    @staticmethod
    def of(architecture: str = "qwen3moe") -> TinyGguf:
        """Return a model of 2 layers, 64 wide, 2 heads of 32, 1 key-value head, 4 experts of which 2 are used."""
        return TinyGguf(_pairs(architecture), _tensors(architecture))

    def to_bytes(self) -> bytes:
        generator = np.random.default_rng(0)
        data, infos = b"", []
        for name, tensor in self.tensors.items():
            infos.append(tensor_info(name, tensor.shape[::-1], tensor.type_id, len(data)))
            data += padded(tensor.to_bytes(generator), self.alignment)
        pairs = [pair(key, *value) for key, value in self.pairs.items()] + self.extra_pairs
        return padded(header(pairs, infos), self.alignment) + data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def tokens() -> list[str]:
    """Return the 256 symbols of the GPT-2 byte alphabet and three special tokens."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(256 - len(plain))]
    return [*symbols, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _pairs(architecture: str) -> dict[str, Value]:
    a, vocabulary = architecture, tokens()
    pairs: dict[str, Value] = {
        "general.architecture": (STRING, a),
        f"{a}.block_count": (U32, 2),
        f"{a}.context_length": (U32, 128),
        f"{a}.embedding_length": (U32, 64),
        f"{a}.feed_forward_length": (U32, 96),
        f"{a}.attention.head_count": (U32, 2),
        f"{a}.attention.head_count_kv": (U32, 1),
        f"{a}.attention.key_length": (U32, 32),
        f"{a}.attention.value_length": (U32, 32),
        f"{a}.attention.layer_norm_rms_epsilon": (F32, 1e-6),
        f"{a}.rope.freq_base": (F32, 1e6),
    }
    if a == "qwen3moe":
        pairs[f"{a}.expert_count"] = (U32, 4)
        pairs[f"{a}.expert_used_count"] = (U32, 2)
        pairs[f"{a}.expert_feed_forward_length"] = (U32, 32)
    return pairs | {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "qwen2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, vocabulary)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 256 + [3] * 3)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b", "c d"])),
        "tokenizer.ggml.eos_token_id": (U32, 258),
        "tokenizer.ggml.bos_token_id": (U32, 256),
        "tokenizer.ggml.add_bos_token": (BOOL, 0),
    }


def _tensors(architecture: str) -> dict[str, TinyTensor]:
    n_vocab = len(tokens())
    tensors = {"token_embd.weight": TinyTensor((n_vocab, 64)), "output_norm.weight": TinyTensor((64,))}
    for layer in range(2):
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (64,),
            "attn_q.weight": (64, 64),
            "attn_k.weight": (32, 64),
            "attn_v.weight": (32, 64),
            "attn_output.weight": (64, 64),
            "ffn_norm.weight": (64,),
        }
        if architecture == "qwen2":
            shapes |= {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
        if architecture.startswith("qwen3"):
            shapes |= {"attn_q_norm.weight": (32,), "attn_k_norm.weight": (32,)}
        if architecture == "qwen3moe":
            shapes |= {"ffn_gate_inp.weight": (4, 64), "ffn_gate_exps.weight": (4, 32, 64)}
            shapes |= {"ffn_up_exps.weight": (4, 32, 64), "ffn_down_exps.weight": (4, 64, 32)}
        else:
            shapes |= {"ffn_gate.weight": (96, 64), "ffn_up.weight": (96, 64), "ffn_down.weight": (64, 96)}
        tensors |= {f"blk.{layer}.{name}": TinyTensor(shape) for name, shape in shapes.items()}
    return tensors
