#!/usr/bin/env python3
"""Write a random Qwen3-MoE checkpoint at true layer shapes: for benchmarks of conversion and offload, not for reading.

    scripts/make_synthetic_moe.py --shape 30b --layers 4 OUT        6.2 GB
    scripts/make_synthetic_moe.py --shape 235b --layers 2 OUT       12.3 GB

An ordinary Hugging Face folder: config, tokenizer and chat template (of the bundled demo, with --vocab rows), BF16
safetensors in shards. Weights are streamed to disk one matrix at a time; the same seed gives the same bytes. The rows
of each router have spread norms, so that routing is skewed as in trained models: a few experts take much of the
traffic.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of one model family, from its config.json."""

    hidden: int
    expert_width: int
    n_heads: int
    n_kv_heads: int
    n_layers: int
    head_dim: int = 128
    n_experts_used: int = 8


SHAPES = {
    "30b": Shape(hidden=2048, expert_width=768, n_heads=32, n_kv_heads=4, n_layers=48),
    "235b": Shape(hidden=4096, expert_width=1536, n_heads=64, n_kv_heads=4, n_layers=94),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor to be written; `gain` scales a matrix, `spread` makes the norms of its rows differ."""

    name: str
    shape: tuple[int, ...]
    gain: float = 1.0
    spread: float = 0.0

    @property
    def n_bytes(self) -> int:
        """Bytes in BF16."""
        return 2 * int(np.prod(self.shape))


def tensors(shape: Shape, n_layers: int, n_experts: int, n_vocab: int) -> Iterator[Entry]:
    """Every tensor of the model, in the order of its layers."""
    hidden, width = shape.hidden, shape.expert_width
    q_rows, kv_rows = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    yield Entry("model.embed_tokens.weight", (n_vocab, hidden), gain=8)
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}."
        yield Entry(f"{prefix}input_layernorm.weight", (hidden,))
        for letter, n_rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            yield Entry(f"{prefix}self_attn.{letter}_proj.weight", (n_rows, hidden))
        yield Entry(f"{prefix}self_attn.o_proj.weight", (hidden, q_rows))
        yield Entry(f"{prefix}self_attn.q_norm.weight", (shape.head_dim,))
        yield Entry(f"{prefix}self_attn.k_norm.weight", (shape.head_dim,))
        yield Entry(f"{prefix}post_attention_layernorm.weight", (hidden,))
        yield Entry(f"{prefix}mlp.gate.weight", (n_experts, hidden), gain=2, spread=0.5)
        for expert in range(n_experts):
            yield Entry(f"{prefix}mlp.experts.{expert}.gate_proj.weight", (width, hidden))
            yield Entry(f"{prefix}mlp.experts.{expert}.up_proj.weight", (width, hidden))
            yield Entry(f"{prefix}mlp.experts.{expert}.down_proj.weight", (hidden, width))
    yield Entry("model.norm.weight", (hidden,))
    yield Entry("lm_head.weight", (n_vocab, hidden), gain=4)


def values(entry: Entry, random: np.random.Generator) -> np.ndarray:
    """The weights of one tensor as BF16 bit patterns, uint16, in the tensor's shape."""
    weights = random.standard_normal(entry.shape, dtype=np.float32)
    if len(entry.shape) == 1:  # a norm
        weights = 1 + 0.1 * weights
    else:
        weights *= entry.gain / entry.shape[1] ** 0.5
    if entry.spread:
        weights *= np.exp(entry.spread * random.standard_normal((entry.shape[0], 1), dtype=np.float32))
    bits = weights.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)  # round to nearest even; all are finite and far from overflow
    return (bits >> 16).astype("<u2")


def split_shards(entries: list[Entry], shard_bytes: int) -> list[list[Entry]]:
    """Consecutive tensors, each shard filled up to `shard_bytes`."""
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + entry.n_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.n_bytes
    return shards


def write_shard(path: Path, entries: list[Entry], random: np.random.Generator) -> None:
    """Write one safetensors file: u64 header length, JSON padded to 8 bytes, the tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": "BF16",
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.n_bytes],
        }
        position += entry.n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            file.write(values(entry, random).data)


def config(shape: Shape, n_layers: int, n_experts: int, n_vocab: int) -> dict[str, object]:
    """config.json as transformers writes it for Qwen3-MoE."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": 3 * shape.hidden,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": shape.expert_width,
        "norm_topk_prob": True,
        "num_attention_heads": shape.n_heads,
        "num_experts": n_experts,
        "num_experts_per_tok": min(shape.n_experts_used, n_experts),
        "num_hidden_layers": n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": n_vocab,
    }


def write_checkpoint(folder: Path, options: argparse.Namespace) -> int:
    """Write the folder; return the bytes of weights."""
    shape = SHAPES[options.shape]
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (options.tokenizer / name).is_file():
            shutil.copyfile(options.tokenizer / name, folder / name)
    described = config(shape, options.layers or shape.n_layers, options.experts, options.vocab)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    entries = list(tensors(shape, options.layers or shape.n_layers, options.experts, options.vocab))
    shards = split_shards(entries, int(options.shard_gb * 1e9))
    random = np.random.default_rng(options.seed)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard, random)
        weight_map |= dict.fromkeys((entry.name for entry in shard), name)
        print(f"{name}: {sum(entry.n_bytes for entry in shard) / 1e9:.2f} GB", file=sys.stderr)
    n_bytes = sum(entry.n_bytes for entry in entries)
    index = {"metadata": {"total_size": n_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return n_bytes


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--shape", choices=SHAPES, default="30b", help="whose layers (default: 30b)")
    parser.add_argument("--layers", type=int, help="how many (default: all of them)")
    parser.add_argument("--experts", type=int, default=128, help="experts a layer (default: 128)")
    parser.add_argument("--vocab", type=int, default=151936, help="rows of the embeddings (default: 151936)")
    parser.add_argument("--shard-gb", type=float, default=4.0, help="size of a shard in GB (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tokenizer", type=Path, default=REPOSITORY / "qwenctl" / "demo", help="folder to take it from"
    )
    options = parser.parse_args()
    if not (options.tokenizer / "tokenizer.json").is_file():
        parser.error(f"{options.tokenizer} has no tokenizer.json; name a folder with --tokenizer")
    n_bytes = write_checkpoint(options.out, options)
    print(f"{options.out}: {n_bytes / 1e9:.2f} GB of weights", file=sys.stderr)


if __name__ == "__main__":
    main()
