"""The recipe against llama.cpp's dry run: every tensor of every model, every output type, with and without imatrix."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from quant.errors import UnsupportedTensor
from quant.ggml_types import GGML_TYPES
from quant.hf_config import HfConfig, read_config
from quant.recipe import OUTPUT_TYPES, PRESETS, STOCK_TYPES, RecipeModel, choose_types, find_output_type
from quant.tensor_names import map_tensors
from tests.quant.llama_dry_run import dry_run_types
from tests.quant.true_shapes import ODD_MODELS, TRUE_MODELS, tensor_infos, write_config

MODELS = TRUE_MODELS | ODD_MODELS
_COMBINATIONS = list(product(STOCK_TYPES.values(), (False, True)))


Headers = dict[str, tuple[HfConfig, list[tuple[str, tuple[int, ...]]]]]


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Headers:
    """Return by model: its configuration, and the GGUF names and shapes of its tensors."""
    folder = tmp_path_factory.mktemp("configs")
    found: Headers = {}
    for name, values in MODELS.items():
        config = read_config(write_config(folder / name, values))
        found[name] = (config, [(tensor.name, tensor.shape) for tensor in map_tensors(config, tensor_infos(values))])
    return found


def _recipe_model(config: HfConfig) -> RecipeModel:
    return RecipeModel(
        config.architecture.gguf_name, config.n_layers, config.n_experts, config.n_heads, config.n_kv_heads
    )


def _metadata(config: HfConfig) -> dict[str, Any]:
    name = config.architecture.gguf_name
    pairs: dict[str, Any] = {
        "context_length": config.n_ctx_train,
        "embedding_length": config.n_embd,
        "block_count": config.n_layers,
        "feed_forward_length": config.n_ff,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    if config.n_experts:
        pairs |= {"expert_count": config.n_experts, "expert_used_count": config.n_experts_used}
        pairs |= {"expert_feed_forward_length": config.n_ff_expert}
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in pairs.items()}


@pytest.fixture(scope="module")
def truth(headers: Headers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Return llama.cpp's choices: by model, for each of `_COMBINATIONS`, by tensor."""
    models = {name: (_metadata(config), shapes) for name, (config, shapes) in headers.items()}
    requests = [(output.ftype_id, has_imatrix) for output, has_imatrix in _COMBINATIONS]
    return dry_run_types(tmp_path_factory.mktemp("dry-run"), models, requests)


@pytest.mark.parametrize("name", MODELS)
def test_types_equal_llama_cpps_dry_run(name: str, truth: dict[str, list[dict[str, str]]], headers: Headers) -> None:
    config, shapes = headers[name]
    for (output, has_imatrix), expected in zip(_COMBINATIONS, truth[name], strict=True):
        chosen = choose_types(output, _recipe_model(config), shapes, has_imatrix=has_imatrix)
        ours = {tensor: kind.name for tensor, kind in chosen.items()}
        assert len(expected) == len(shapes)
        differing = {tensor: (ours[tensor], kind) for tensor, kind in expected.items() if ours[tensor] != kind}
        assert not differing, f"{output.name}, imatrix {has_imatrix}: (ours, llama.cpp's) {differing}"


def test_sizes_of_the_large_models_are_the_published_ones(headers: Headers) -> None:
    """Bytes of all tensors, in decimal GB, as llama.cpp's dry run sums them up."""
    published = {
        ("Qwen3-235B-A22B", "bf16", False): 470.3,
        ("Qwen3-235B-A22B", "q8_0", False): 249.9,
        ("Qwen3-235B-A22B", "q4_k_m", False): 142.1,
        ("Qwen3-235B-A22B", "q4_k_s", False): 133.7,
        ("Qwen3-235B-A22B", "iq4_xs", True): 125.3,
        ("Qwen3-235B-A22B", "mxfp4_moe", False): 129.3,
        ("Qwen3-30B-A3B", "q4_k_m", False): 18.6,
        ("Qwen3-30B-A3B", "q4_0", True): 17.4,
    }
    for (name, output, has_imatrix), gigabytes in published.items():
        config, shapes = headers[name]
        chosen = choose_types(OUTPUT_TYPES[output], _recipe_model(config), shapes, has_imatrix=has_imatrix)
        total = sum(chosen[tensor].tensor_bytes(shape) for tensor, shape in shapes)
        assert round(total / 1e9, 1) == gigabytes, (name, output)


@pytest.mark.parametrize("name", ["Qwen3-235B-A22B", "Qwen3-30B-A3B", "Qwen3-8B", "Qwen3-32B"])
def test_presets_are_no_larger_and_keep_what_is_always_active(name: str, headers: Headers) -> None:
    config, shapes = headers[name]

    def types(output: str) -> dict[str, str]:
        model = _recipe_model(config)
        return {n: one.name for n, one in choose_types(OUTPUT_TYPES[output], model, shapes, has_imatrix=True).items()}

    def total(output: str) -> int:
        return sum(GGML_TYPES[types(output)[tensor]].tensor_bytes(shape) for tensor, shape in shapes)

    assert total("q4_k_m+") <= total("q4_k_m")
    assert total("iq4_xs") <= total("iq4+") <= total("iq4_xs") * 1.04
    for preset in PRESETS:
        chosen = types(preset)
        bits = {tensor: GGML_TYPES[kind].bits_per_weight for tensor, kind in chosen.items()}
        assert bits["blk.1.attn_v.weight"] > bits["blk.1.ffn_up" + ("_exps" if config.n_experts else "") + ".weight"]
        assert chosen["output.weight"] == "Q6_K"


def test_output_types_are_found_in_any_case_and_unknown_ones_are_listed() -> None:
    assert find_output_type("Q4_K_M") is OUTPUT_TYPES["q4_k_m"]
    with pytest.raises(UnsupportedTensor) as caught:
        find_output_type("q4_k_l")
    assert "'q4_k_l'" in caught.value.message
    assert caught.value.hint is not None
    assert "mxfp4_moe" in caught.value.hint


def test_every_default_is_a_known_type() -> None:
    assert all(GGML_TYPES[output.default.name] is output.default for output in OUTPUT_TYPES.values())
    assert [name for name, output in OUTPUT_TYPES.items() if not output.is_quantized] == ["f32", "f16", "bf16"]
