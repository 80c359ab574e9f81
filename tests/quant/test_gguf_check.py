"""Models that llama.cpp takes pass the pre-flight. Those that kill it: tests/attacks/."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.errors import GgufError
from quant.gguf_check import check_model
from quant.gguf_check_tensors import CHECKED_ARCHITECTURES
from quant.gguf_read import read_gguf
from tests.tiny_gguf import ARRAY, BOOL, F32, I32, STRING, U32, TinyGguf, TinyTensor, tokens


def _check(model: TinyGguf, folder: Path) -> None:
    check_model(read_gguf(model.write(folder / "model.gguf")))


@pytest.mark.parametrize("architecture", CHECKED_ARCHITECTURES)
def test_tiny_models_pass(architecture: str, tmp_path: Path) -> None:
    _check(TinyGguf.of(architecture), tmp_path)


def test_a_published_model_passes(smollm2_gguf: Path) -> None:
    check_model(read_gguf(smollm2_gguf))


def test_an_architecture_we_do_not_know_is_left_to_llama_cpp(tmp_path: Path) -> None:
    """Its rules that hold for all are checked; heads, shapes and required tensors are its own."""
    model = TinyGguf.of("qwen3moe")
    model.pairs = {key.replace("qwen3moe.", "zebra."): value for key, value in model.pairs.items()}
    model.pairs["general.architecture"] = (STRING, "zebra")
    del model.tensors["output_norm.weight"]
    model.pairs["zebra.attention.key_length"] = (U32, 7)
    model.pairs["zebra.attention.head_count_kv"] = (ARRAY, (U32, [1, 0]))
    model.pairs["zebra.expert_used_count"] = (ARRAY, (U32, [2, 0]))
    _check(model, tmp_path)
    model.pairs["zebra.expert_used_count"] = (U32, 5)
    with pytest.raises(GgufError, match="expert_used_count is 5 of 4"):
        _check(model, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"qwen3moe.expert_used_count": (ARRAY, (U32, [2, 1]))},
        {"qwen3moe.attention.head_count": (ARRAY, (I32, [2, 2]))},
        {"qwen3moe.rope.scaling.type": (STRING, "yarn"), "qwen3moe.rope.scaling.factor": (F32, 4.0)},
        {"qwen3moe.rope.dimension_count": (U32, 32)},
        {"tokenizer.ggml.padding_token_id": (U32, 0xFFFFFFFF)},  # published files have such; llama.cpp ignores it
        {"tokenizer.ggml.fim_pre_token_id": (U32, 999)},
        {"tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * 300))},
        {"tokenizer.ggml.scores": (ARRAY, (I32, [0] * 259))},
        {"tokenizer.ggml.add_bos_token": (BOOL, 1)},
        {"tokenizer.ggml.tokens": (ARRAY, (STRING, ["", *tokens()[1:]]))},
        {"general.type": (STRING, "model")},
        {"general.file_type": (U32, 15)},
    ],
    ids=str,
)
def test_unusual_but_allowed(changes: dict, tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    model.pairs |= changes
    _check(model, tmp_path)


def test_default_end_of_text_serves(tmp_path: Path) -> None:
    model = TinyGguf.of()
    for name in ("bos", "eos"):
        model.pairs[f"tokenizer.ggml.add_{name}_token"] = (BOOL, 1)
        model.pairs.pop(f"tokenizer.ggml.{name}_token_id", None)
    _check(model, tmp_path)  # llama.cpp assumes token 11 for this tokenizer


def test_sentencepiece_with_its_byte_tokens(tmp_path: Path) -> None:
    model = TinyGguf.of("llama")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    model.pairs["tokenizer.ggml.model"] = (STRING, "llama")
    model.pairs["tokenizer.ggml.tokens"] = (ARRAY, (STRING, pieces))
    del model.pairs["tokenizer.ggml.merges"]
    _check(model, tmp_path)


def test_untied_output_and_fused_attention(tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3")
    model.tensors["output.weight"] = TinyTensor((259, 64))
    for name in ("attn_q", "attn_k", "attn_v"):
        del model.tensors[f"blk.0.{name}.weight"]
    model.tensors["blk.0.attn_qkv.weight"] = TinyTensor((128, 64))
    _check(model, tmp_path)


def test_quantized_experts(tmp_path: Path) -> None:
    model = TinyGguf.of()
    model.tensors["blk.0.ffn_up_exps.weight"].type_id = 8
    model.tensors["blk.1.ffn_gate_inp.weight"].type_id = 30
    _check(model, tmp_path)
