"""Plans of exports at the true sizes of published models: what is packed, where it lies, what is said about it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quant.checkpoint import Checkpoint
from quant.errors import ImatrixMismatch, UnsupportedTensor
from quant.export_format import ExportFormat
from quant.export_plan import ExportPlan, plan_export
from quant.imatrix import Imatrix, ImatrixEntry
from tests.quant.true_shapes import ODD_MODELS, TRUE_MODELS, tensor_infos, write_config
from tests.tiny_checkpoint import TinyModel, write_checkpoint


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Plan exports from configurations and headers alone."""

    def plan(config: dict, kind: ExportFormat, *, fused: bool = False, **statistics) -> ExportPlan:
        infos = tensor_infos(config, fused=fused)
        checkpoint = Checkpoint(tmp_path, (), infos)
        monkeypatch.setattr("quant.export_plan.open_checkpoint", lambda *_: checkpoint)
        return plan_export(write_config(tmp_path, config), kind, **statistics)

    return plan


@pytest.mark.parametrize("name", ["Qwen3-235B-A22B", "Qwen3-0.6B", "Qwen2.5-72B"])
@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_units_cover_every_byte_once(planned, name: str, kind: str) -> None:
    plan = planned(TRUE_MODELS[name], ExportFormat(kind))
    for file, shard in enumerate(plan.shards):
        units = sorted((u.offset_bytes, u.n_bytes) for u in plan.units if u.file == file)
        assert units[0][0] == len(shard.header)
        assert all(offset + n_bytes == after for (offset, n_bytes), (after, _) in pairwise(units))
        assert sum(units[-1]) == shard.total_bytes
        assert shard.total_bytes < 5.1e9
    packed = sum(unit.n_weights for unit in plan.units if unit.kind != "search")
    assert packed == plan.n_weights
    searches = [unit for unit in plan.units if unit.kind == "search"]
    assert plan.units[: len(searches)] == tuple(searches)
    assert (len(searches) > 0) == (kind == "awq")


@pytest.mark.parametrize(
    ("name", "gigabytes", "bits"), [("Qwen3-235B-A22B", 124.4, 4.23), ("Qwen3-30B-A3B", 16.8, 4.40)]
)
def test_sizes_of_large_models(planned, name: str, gigabytes: float, bits: float) -> None:
    plan = planned(TRUE_MODELS[name], ExportFormat("awq"))
    assert plan.total_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert plan.bits_per_weight == pytest.approx(bits, abs=0.01)
    assert len(plan.shards) == -(-plan.total_bytes // 5_000_000_000)


def test_only_projections_are_packed(planned) -> None:
    plan = planned(TRUE_MODELS["Qwen3-30B-A3B"], ExportFormat("awq"))
    kept = {total.family for total in plan.family_totals() if total.type_name == "BF16"}
    assert kept == {
        "model.embed_tokens",
        "model.layers.*.input_layernorm",
        "model.layers.*.self_attn.q_norm",
        "model.layers.*.self_attn.k_norm",
        "model.layers.*.post_attention_layernorm",
        "model.layers.*.mlp.gate",
        "model.norm",
        "lm_head",
    }
    names = [tensor.name for shard in plan.shards for tensor in shard.tensors]
    assert "model.layers.47.mlp.experts.127.down_proj.qzeros" in names
    assert "model.layers.0.mlp.gate.weight" in names


def test_fused_experts_are_taken_apart(planned) -> None:
    config = TRUE_MODELS["Qwen3-30B-A3B"]
    apart = planned(config, ExportFormat("gptq"))
    fused = planned(config, ExportFormat("gptq"), fused=True)
    assert fused.shards == apart.shards


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_quantization_config(planned, kind: str) -> None:
    stated = json.loads(planned(TRUE_MODELS["Qwen3-30B-A3B"], ExportFormat(kind, 64)).carried["config.json"])
    assert stated["torch_dtype"] == "bfloat16"
    config = stated["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"]) == (kind, 4, 64)
    if kind == "awq":
        assert (config["version"], config["zero_point"]) == ("gemm", True)
        assert config["modules_to_not_convert"] == ["lm_head", "mlp.gate"]
    else:
        assert (config["checkpoint_format"], config["sym"], config["desc_act"]) == ("gptq", True, False)
        assert config["dynamic"] == {r"-:.*\.mlp\.gate$": {}}


def test_dense_models_name_no_router(planned) -> None:
    dense = TRUE_MODELS["Qwen3-8B"]
    awq = json.loads(planned(dense, ExportFormat("awq")).carried["config.json"])["quantization_config"]
    gptq = json.loads(planned(dense, ExportFormat("gptq")).carried["quantize_config.json"])
    assert awq["modules_to_not_convert"] == ["lm_head"]
    assert "dynamic" not in gptq


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Qwen3-30B-A3B", "over 4, 8 GPUs cuts moe_intermediate_size 768 into 192, 96"),
        ("Qwen3-235B-A22B", "over 8 GPUs cuts moe_intermediate_size 1536 into 192,"),
        ("Qwen2.5-0.5B", "cuts the heads' outputs (num_attention_heads x head_dim) 896 into 448, 224, 112"),
        ("Qwen2.5-72B", "over 2, 4, 8 GPUs cuts intermediate_size 29568 into 14784, 7392, 3696"),
    ],
)
def test_parallel_sizes_that_break_groups(planned, name: str, said: str) -> None:
    assert any(said in caution for caution in planned(TRUE_MODELS[name], ExportFormat("awq")).cautions)


def test_parallel_sizes_that_fit_are_not_mentioned(planned) -> None:
    cautions = planned(TRUE_MODELS["Qwen3-8B"], ExportFormat("awq")).cautions
    assert not any("GPUs" in caution for caution in cautions)
    cautions = planned(TRUE_MODELS["Qwen3-30B-A3B"], ExportFormat("awq")).cautions
    assert any(caution.endswith("or --group-size 64") for caution in cautions)


def test_symmetric_experts_are_warned_about(planned) -> None:
    def says(name: str, kind: str) -> bool:
        return any("symmetric" in caution for caution in planned(TRUE_MODELS[name], ExportFormat(kind)).cautions)

    assert says("Qwen3-30B-A3B", "gptq")
    assert not says("Qwen3-30B-A3B", "awq")
    assert not says("Qwen3-8B", "gptq")


@pytest.mark.parametrize(
    ("model", "group_size", "said", "hint"),
    [
        ("rows of 96", 128, "model.layers.0.self_attn.q_proj.weight has rows of 96", "--group-size 32 fits it"),
        ("rows of 100", 32, "model.layers.0.self_attn.q_proj.weight has rows of 100", "--format gguf"),
        ("rows of 800, tied", 128, "rows of 800, not a multiple of the group size 128", "--group-size 32"),
    ],
)
def test_matrices_that_groups_do_not_divide(planned, model: str, group_size: int, said: str, hint: str) -> None:
    with pytest.raises(UnsupportedTensor) as caught:
        planned(ODD_MODELS[model], ExportFormat("awq", group_size))
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")


def imatrix(n_columns: int = 256, counts: tuple[float, ...] = (9.0, 0.0)) -> Imatrix:
    entries = {
        "blk.0.attn_q.weight": ImatrixEntry(np.ones((1, n_columns), np.float32), np.ones(1, np.float32)),
        "blk.0.ffn_down_exps.weight": ImatrixEntry(np.ones((2, 256), np.float32), np.array(counts, np.float32)),
    }
    return Imatrix(entries)


def test_what_statistics_lack_is_said_by_name(tmp_path: Path) -> None:
    model = TinyModel(n_layers=1, n_experts=2, n_experts_used=1)
    plan = plan_export(write_checkpoint(tmp_path, model), ExportFormat("awq"), imatrix=imatrix())
    cautions = "\n".join(plan.cautions)
    assert "blk.0.ffn_down_exps 1" in cautions
    assert "without statistics, so columns are guessed: blk.0.attn_k.weight" in cautions
    assert "no statistics of activations" not in cautions


def test_statistics_of_another_model(tmp_path: Path) -> None:
    model = TinyModel(n_layers=1, n_experts=2, n_experts_used=1)
    with pytest.raises(ImatrixMismatch, match=r"blk\.0\.attn_q\.weight"):
        plan_export(write_checkpoint(tmp_path, model), ExportFormat("awq"), imatrix=imatrix(n_columns=128))


def test_everything_that_matters_is_part_of_the_identity(tmp_path: Path) -> None:
    model = TinyModel(n_layers=1, n_experts=2, n_experts_used=1)
    folder = write_checkpoint(tmp_path, model)
    plans = [
        plan_export(folder, ExportFormat("awq")),
        plan_export(folder, ExportFormat("gptq")),
        plan_export(folder, ExportFormat("awq", 64)),
        plan_export(folder, ExportFormat("awq"), imatrix=imatrix()),
        plan_export(folder, ExportFormat("awq"), imatrix=imatrix(counts=(8.0, 0.0))),
        plan_export(folder, ExportFormat("awq"), max_shard_bytes=100_000),
    ]
    identities = [json.dumps(dict(plan.identity), sort_keys=True) for plan in plans]
    assert len(set(identities)) == len(plans)
    assert plan_export(folder, ExportFormat("awq")).identity == plans[0].identity
