"""config.json and generation_config.json: what is read, what is refused and how that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quant.errors import CheckpointError, JsonFileError, UnsupportedArchitecture
from quant.hf_config import read_config
from quant.rope_config import RopeScaling
from tests.quant.true_shapes import TRUE_MODELS, write_config

MOE = TRUE_MODELS["Qwen3-30B-A3B"]
DENSE = TRUE_MODELS["Qwen3-8B"]
QWEN2 = TRUE_MODELS["Qwen2.5-0.5B"]


def test_a_moe_model(tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path, TRUE_MODELS["Qwen3-235B-A22B"]))
    assert config.architecture.gguf_name == "qwen3moe"
    assert (config.n_layers, config.n_embd, config.n_heads, config.n_kv_heads) == (94, 4096, 64, 4)
    assert (config.n_experts, config.n_experts_used, config.n_ff_expert) == (128, 8, 1536)
    assert config.lengths["n_q"] == 64 * 128 != config.n_embd
    assert (config.rope_theta, config.rope_scaling, config.tied_embeddings) == (1e6, None, False)


@pytest.mark.parametrize(
    ("values", "head_dim"),
    [
        (DENSE, 128),
        ({key: value for key, value in DENSE.items() if key != "head_dim"}, 128),  # Qwen3Config's default
        ({key: value for key, value in MOE.items() if key != "head_dim"}, 64),  # hidden_size / heads
        (QWEN2, 64),
    ],
)
def test_head_dim(values: dict[str, Any], head_dim: int, tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, values)).head_dim == head_dim


def test_experts_as_transformers_5_names_them(tmp_path: Path) -> None:
    values = {key: value for key, value in MOE.items() if key != "num_experts"} | {"num_local_experts": 128}
    assert read_config(write_config(tmp_path, values)).n_experts == 128


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({"rope_scaling": YARN}, 1e6, RopeScaling("yarn", 4.0, 32768)),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 1e6, RopeScaling("yarn", 4.0, 40960)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 1e6, RopeScaling("linear", 2.0)),
        ({"rope_scaling": YARN | {"beta_fast": 32.0, "beta_slow": 1}}, 1e6, RopeScaling("yarn", 4.0, 32768)),
        ({"rope_scaling": YARN | {"attention_factor": 1.5}}, 1e6, RopeScaling("yarn", 4.0, 32768, 1.5)),
        ({"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, 1e6, RopeScaling("yarn", 4.0, 32768, 1.0)),
        ({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}, 5e6, None),
        ({"rope_parameters": {"rope_theta": 5e6} | YARN}, 5e6, RopeScaling("yarn", 4.0, 32768)),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e6, "rope_type": "default"}}}, 5e6, None),
        ({"rope_theta": None}, 1e4, None),
    ],
)
def test_rope(changes: dict[str, Any], theta: float, scaling: RopeScaling | None, tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path, MOE | changes))
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


def test_a_stated_attention_factor_counts_beside_the_one_llama_cpp_applies_anyway() -> None:
    assert RopeScaling("yarn", 4.0, 32768).attention_factor_beside_yarn == 1.0
    assert RopeScaling("yarn", 4.0, 32768, 1.0).attention_factor_beside_yarn == pytest.approx(1 / 1.1386294)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "'longrope'"),
        ({"rope_scaling": YARN | {"beta_fast": 16}}, "beta_fast 16"),
        ({"rope_scaling": YARN | {"truncate": False}}, "truncation"),
        ({"norm_topk_prob": None}, "norm_topk_prob"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 8}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"is_causal": False}, "causal"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture) as caught:
        read_config(write_config(tmp_path, MOE | changes))
    assert named in caught.value.message
    assert "config.json" in caught.value.message


def test_an_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture) as caught:
        read_config(write_config(tmp_path, {"architectures": ["GemmaForCausalLM"]}))
    assert caught.value.hint == "known architectures: Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM"


def test_qwen2_needs_heads_that_make_up_the_width(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match="14 heads of 128 do not make hidden_size 896"):
        read_config(write_config(tmp_path, QWEN2 | {"head_dim": 128}))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 48},  # no layer slides
        {"use_sliding_window": True, "sliding_window": 40960, "max_window_layers": 0},  # no window is shorter
        {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 8},
        {"layer_types": ["full_attention"] * 48},
    ],
)
def test_windows_that_never_apply_are_no_obstacle(changes: dict[str, Any], tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, MOE | changes)).n_layers == 48


def test_quantized_weights_are_refused_with_their_method(tmp_path: Path) -> None:
    values = MOE | {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}
    with pytest.raises(CheckpointError, match=r"already quantized \('fp8'\)") as caught:
        read_config(write_config(tmp_path, values))
    assert caught.value.hint is not None
    assert "original BF16 checkpoint" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "4096"}, "hidden_size must be an integer, not '4096'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be an integer, not True"),
        ({"num_hidden_layers": 513}, "num_hidden_layers must lie between 1 and 512, not 513"),
        ({"num_experts": 1025}, "num_experts must lie between 1 and 1024"),
        ({"num_experts_per_tok": 129}, "num_experts_per_tok must lie between 1 and 128"),
        ({"num_key_value_heads": 3}, "num_attention_heads 32 is not a multiple of num_key_value_heads 3"),
        ({"head_dim": 127}, "head_dim must be even"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"architectures": []}, "architectures must be an array"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, "rope_scaling.factor must lie between 1 and 1e+06"),
        ({"eos_token_id": [151645, 151936]}, "eos_token_id must hold ids below vocab_size 151936, not 151936"),
    ],
)
def test_malformed_values(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(JsonFileError) as caught:
        read_config(write_config(tmp_path, MOE | changes))
    assert caught.value.message.startswith(f"{tmp_path / 'config.json'}: {said}")
    assert "\n" not in caught.value.message


def test_generation_config_gives_sampling_and_further_ends(tmp_path: Path) -> None:
    write_config(tmp_path, MOE | {"eos_token_id": 151645, "bos_token_id": 151643, "pad_token_id": -1})
    generation = {"eos_token_id": [151645, 151643], "temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    config = read_config(tmp_path)
    assert config.sampling == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert config.eos_token_ids == (151645, 151643)
    assert (config.bos_token_id, config.pad_token_id) == (151643, None)


def test_generation_config_out_of_bounds(tmp_path: Path) -> None:
    write_config(tmp_path, MOE)
    (tmp_path / "generation_config.json").write_text('{"top_p": 1.5}')
    with pytest.raises(JsonFileError, match=r"generation_config.json: top_p must lie between 0 and 1, not 1.5"):
        read_config(tmp_path)


def test_no_config_at_all(tmp_path: Path) -> None:
    with pytest.raises(JsonFileError, match="No such file"):
        read_config(tmp_path)
