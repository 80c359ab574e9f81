"""Names, order and stacking of tensors, on the headers of published models."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from quant.errors import CheckpointError, UnsupportedTensor
from quant.hf_config import HfConfig, read_config
from quant.tensor_info import TensorInfo
from quant.tensor_names import TargetTensor, map_tensors
from tests.quant.true_shapes import ODD_MODELS, TRUE_MODELS, tensor_infos, write_config

MOE = TRUE_MODELS["Qwen3-30B-A3B"]
SMALL = ODD_MODELS["one layer"]  # 8 experts of 256 x 256


def _config(folder: Path, values: dict[str, object]) -> HfConfig:
    return read_config(write_config(folder, values))


def _mapped(folder: Path, name: str) -> dict[str, TargetTensor]:
    values = TRUE_MODELS[name]
    return {target.name: target for target in map_tensors(_config(folder, values), tensor_infos(values))}


@pytest.mark.parametrize(
    ("name", "n_targets"),
    [
        ("Qwen3-235B-A22B", 94 * 12 + 3),
        ("Qwen3-30B-A3B", 48 * 12 + 3),
        ("Qwen3-0.6B", 28 * 11 + 2),
        ("Qwen3-32B", 64 * 11 + 3),
        ("Qwen2.5-0.5B", 24 * 12 + 2),
    ],
)
def test_every_weight_of_the_checkpoint_lands_once(name: str, n_targets: int, tmp_path: Path) -> None:
    targets = _mapped(tmp_path, name).values()
    infos = tensor_infos(TRUE_MODELS[name])
    assert len(targets) == n_targets
    assert sum(prod(target.shape) for target in targets) == sum(info.n_weights for info in infos.values())
    used = [part.info.name for target in targets for part in target.sources]
    assert sorted(used) == sorted(infos)
    for target in targets:
        assert sum(part.n_rows for part in target.sources) == prod(target.shape[:-1])


def test_shapes_and_names_of_a_moe_layer(tmp_path: Path) -> None:
    targets = _mapped(tmp_path, "Qwen3-235B-A22B")
    layer = [target for target in targets.values() if target.name.startswith("blk.93.")]
    assert [(target.name.removeprefix("blk.93."), target.shape) for target in layer] == [
        ("attn_norm.weight", (4096,)),
        ("attn_q.weight", (8192, 4096)),
        ("attn_k.weight", (512, 4096)),
        ("attn_v.weight", (512, 4096)),
        ("attn_output.weight", (4096, 8192)),
        ("attn_q_norm.weight", (128,)),
        ("attn_k_norm.weight", (128,)),
        ("ffn_norm.weight", (4096,)),
        ("ffn_gate_inp.weight", (128, 4096)),
        ("ffn_gate_exps.weight", (128, 1536, 4096)),
        ("ffn_up_exps.weight", (128, 1536, 4096)),
        ("ffn_down_exps.weight", (128, 4096, 1536)),
    ]
    down = targets["blk.93.ffn_down_exps.weight"]
    assert [part.info.name for part in down.sources[:2]] == [
        "model.layers.93.mlp.experts.0.down_proj.weight",
        "model.layers.93.mlp.experts.1.down_proj.weight",
    ]


def test_order_of_the_file(tmp_path: Path) -> None:
    names = list(_mapped(tmp_path, "Qwen3-30B-A3B"))
    assert names[0] == "token_embd.weight"
    assert names[-2:] == ["output_norm.weight", "output.weight"]
    layers = [int(name.split(".")[1]) for name in names if name.startswith("blk.")]
    assert layers == sorted(layers)
    for layer in range(48):
        first = names.index(f"blk.{layer}.ffn_gate_exps.weight")
        experts = [f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
        assert names[first : first + 3] == experts


def test_fused_experts_point_at_the_same_rows(tmp_path: Path) -> None:
    config = _config(tmp_path, SMALL)
    apart = {target.name: target for target in map_tensors(config, tensor_infos(SMALL))}
    fused = {target.name: target for target in map_tensors(config, tensor_infos(SMALL, fused=True))}
    assert {name: target.shape for name, target in fused.items()} == {n: target.shape for n, target in apart.items()}
    rows = {
        part: [(source.first_row, source.n_rows) for source in fused[f"blk.0.ffn_{part}_exps.weight"].sources[:3]]
        for part in ("gate", "up", "down")
    }
    assert rows == {
        "gate": [(0, 256), (512, 256), (1024, 256)],
        "up": [(256, 256), (768, 256), (1280, 256)],
        "down": [(0, 256), (256, 256), (512, 256)],
    }
    assert fused["blk.0.ffn_up_exps.weight"].sources[7].info.name == "model.layers.0.mlp.experts.gate_up_proj"


def _transposed(infos: dict[str, TensorInfo], *suffixes: str) -> dict[str, TensorInfo]:
    return {
        name: replace(info, shape=(info.shape[0], info.shape[2], info.shape[1])) if name.endswith(suffixes) else info
        for name, info in infos.items()
    }


@pytest.mark.parametrize(
    ("hidden", "width", "named"), [(256, 384, "gate_up_proj"), (512, 256, "down_proj"), (256, 256, "gate_up_proj")]
)
def test_transposed_fused_experts_are_refused_even_where_one_of_them_is_square(
    hidden: int, width: int, named: str, tmp_path: Path
) -> None:
    values = SMALL | {"hidden_size": hidden, "moe_intermediate_size": width}
    infos = _transposed(tensor_infos(values, fused=True), "gate_up_proj", "down_proj")
    with pytest.raises(UnsupportedTensor, match=rf"experts\.{named} is stored transposed: 8 x "):
        map_tensors(_config(tmp_path, values), infos)


def test_a_duplicate_of_tied_embeddings_is_left_out(tmp_path: Path) -> None:
    values = TRUE_MODELS["Qwen3-0.6B"]
    infos = tensor_infos(values)
    head = replace(infos["model.embed_tokens.weight"], name="lm_head.weight")
    targets = map_tensors(_config(tmp_path, values), infos | {"lm_head.weight": head})
    assert "output.weight" not in [target.name for target in targets]


def test_frequencies_that_old_checkpoints_carry_are_left_out(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    infos = tensor_infos(SMALL) | {name: TensorInfo(name, "F32", (64,), Path("model.safetensors"), 0, 256)}
    assert len(map_tensors(_config(tmp_path, SMALL), infos)) == 15


def test_missing_tensors_are_counted_and_named(tmp_path: Path) -> None:
    infos = {name: info for name, info in tensor_infos(MOE).items() if ".experts.7." not in name}
    with pytest.raises(CheckpointError) as caught:
        map_tensors(_config(tmp_path, MOE), infos)
    assert "144 missing: model.layers.0.mlp.experts.7.gate_proj.weight, " in caught.value.message
    assert caught.value.message.endswith(" and 140 more")


def test_unknown_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    infos = tensor_infos(SMALL)
    infos["model.layers.0.mlp.gate.weight_scale_inv"] = infos["model.norm.weight"]
    infos["model.norm.weight"] = replace(infos["model.norm.weight"], shape=(255,))
    with pytest.raises(CheckpointError) as caught:
        map_tensors(_config(tmp_path, SMALL), infos)
    assert "1 of the wrong shape: model.norm.weight 255 instead of 256" in caught.value.message
    assert "1 not known: model.layers.0.mlp.gate.weight_scale_inv" in caught.value.message
    assert "Qwen3MoeForCausalLM" in caught.value.message


def test_a_dtype_that_cannot_be_read(tmp_path: Path) -> None:
    infos = tensor_infos(SMALL)
    infos["lm_head.weight"] = replace(infos["lm_head.weight"], dtype="F8_E4M3")
    with pytest.raises(UnsupportedTensor, match=r"model\.safetensors: lm_head\.weight is stored as F8_E4M3"):
        map_tensors(_config(tmp_path, SMALL), infos)
