"""What an export writes is what was searched for, under names that loaders expect, whoever looks and however often."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from quant.codecs.int4_search import search_groups
from quant.errors import BadWeights, CheckpointError, OutputExists, ResumeRefused
from quant.export_inputs import InputWeights
from quant.export_plan import ExportPlan
from quant.export_rows import SourceRowReader
from quant.export_search import sample_rows, search_site
from quant.tensor_read import TensorReader
from tests.quant.disk_faults import SlowFiles
from tests.quant.export_runs import (
    LEFT,
    SMALLEST,
    beside,
    decoded,
    digest,
    run,
    small_plan,
    statistics,
    written_moments,
)
from tests.quant.numpy_layer import layer_output
from tests.quant.test_int4_search import stored
from tests.tiny_checkpoint import TinyModel, tiny_weights, to_bf16, write_checkpoint, write_safetensors

KINDS = pytest.mark.parametrize("kind", ["awq", "gptq"])
DENSE = TinyModel("Qwen2ForCausalLM", n_layers=1, n_heads=2, n_kv_heads=1, head_dim=64, hidden=128, dense_width=256)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("smallest"), SMALLEST)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """What the checkpoint holds, f32."""
    return as_bf16(tiny_weights(SMALLEST))


def as_bf16(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: (to_bf16(v).astype(np.uint32) << 16).view(np.float32) for name, v in values.items()}


def factors_of(plan: ExportPlan) -> list[np.ndarray]:
    with TensorReader() as reader:
        rows = SourceRowReader(reader)
        return [search_site(plan, site, rows, InputWeights(plan, rows)).factors for site in plan.sites]


def importance_of(plan: ExportPlan, number: int) -> np.ndarray:
    with TensorReader() as reader:
        return InputWeights(plan, SourceRowReader(reader)).importance(number)


def test_gptq_holds_what_the_search_finds(source: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    imatrix, _ = statistics(small_plan(source, "gptq"))
    plan = small_plan(source, "gptq", imatrix=imatrix)
    run(plan, tmp_path / "out")
    found = decoded(tmp_path / "out")
    assert found.keys() == weights.keys()
    for number, tensor in enumerate(plan.tensors):
        if tensor.is_packed:
            importance = importance_of(plan, number)
            expected = stored(search_groups(weights[tensor.name], importance, 128, symmetric=True))
        else:
            expected = weights[tensor.name]
        np.testing.assert_array_equal(found[tensor.name], expected, err_msg=tensor.name)


def test_awq_holds_what_the_search_finds(source: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    imatrix, _ = statistics(small_plan(source))
    plan = small_plan(source, imatrix=imatrix)
    run(plan, tmp_path / "out")
    found, factors = decoded(tmp_path / "out"), factors_of(plan)
    assert sum(bool((values != 1).any()) for values in factors) >= 3  # or nothing here is tested
    for number, (tensor, fold) in enumerate(zip(plan.tensors, plan.folds, strict=True)):
        rows = weights[tensor.name]
        if fold.columns is not None:
            columns = plan.sites[fold.columns].spread(factors[fold.columns])
            rows = rows * columns
        if fold.rows is not None:
            rows = rows / (factors[fold.rows] if rows.ndim == 1 else factors[fold.rows][:, None])
        if tensor.is_packed:
            importance = importance_of(plan, number) / (columns * columns)
            expected = stored(search_groups(rows, importance / importance.mean(), 128))
        else:
            expected = as_bf16({"it": rows})["it"]
        np.testing.assert_array_equal(found[tensor.name], expected, err_msg=tensor.name)


def test_what_is_stored_computes_what_the_source_did(tmp_path: Path) -> None:
    """Folds, biases and all: a dense layer's output moves by rounding to 4 bits, and no more."""
    source = write_checkpoint(tmp_path / "source", DENSE)
    imatrix, _ = statistics(small_plan(source), loudness=1.0)
    run(small_plan(source, imatrix=imatrix), tmp_path / "out")
    before, after = as_bf16(tiny_weights(DENSE)), decoded(tmp_path / "out")
    assert any((after[name] != before[name]).any() for name in before if name.endswith("norm.weight"))
    x = np.random.default_rng(0).standard_normal((12, DENSE.hidden))
    expected, got = layer_output(x, before, DENSE)[0], layer_output(x, after, DENSE)[0]
    assert np.linalg.norm(got - expected) < 0.25 * np.linalg.norm(expected - x)


@KINDS
def test_second_moments_make_products_closer(
    kind: str, source: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    imatrix, entries = statistics(small_plan(source, kind))
    moments = written_moments(tmp_path / "h.safetensors", entries)
    run(small_plan(source, kind, imatrix=imatrix), tmp_path / "plain")
    run(small_plan(source, kind, imatrix=imatrix, moments=moments), tmp_path / "moments")
    run(small_plan(source, kind), tmp_path / "blind")

    def error(folder: str) -> float:
        """Of the products with the inputs whose moments these are; only of matrices that are not folded."""
        found, total = decoded(tmp_path / folder), 0.0
        for name, gguf in (("q", "attn_q"), ("k", "attn_k")):
            full = f"model.layers.0.self_attn.{name}_proj.weight"
            norm = "model.layers.0.input_layernorm.weight"
            difference = found[full] * (found[norm] / weights[norm]) - weights[full]
            total += np.einsum("ri,ij,rj->", difference, entries[f"blk.0.{gguf}.weight"].moments[0], difference)
        return total

    assert error("moments") < 0.85 * error("plain")
    assert error("plain") < 0.9 * error("blind")


@KINDS
def test_threads_and_shards_do_not_show(kind: str, source: Path, tmp_path: Path) -> None:
    imatrix, entries = statistics(small_plan(source, kind))
    moments = written_moments(tmp_path / "h.safetensors", entries)
    plan = small_plan(source, kind, imatrix=imatrix, moments=moments)
    run(plan, tmp_path / "one")
    run(plan, tmp_path / "five", n_threads=5)
    assert digest(tmp_path / "one") == digest(tmp_path / "five")
    run(small_plan(source, kind, imatrix=imatrix, moments=moments, max_shard_bytes=1 << 30), tmp_path / "single")
    for name, values in decoded(tmp_path / "one").items():
        np.testing.assert_array_equal(values, decoded(tmp_path / "single")[name])


def test_fused_experts_give_the_same_files(source: Path, tmp_path: Path) -> None:
    fused = write_checkpoint(tmp_path / "fused", TinyModel(**{**vars_of(SMALLEST), "fused_experts": True}))
    run(small_plan(source), tmp_path / "apart")
    run(small_plan(fused), tmp_path / "together")
    assert digest(tmp_path / "apart") == digest(tmp_path / "together")


def vars_of(model: TinyModel) -> dict[str, object]:
    return {name: getattr(model, name) for name in model.__slots__}


@pytest.mark.parametrize(("dtype", "stored_as"), [("F16", "F16"), ("F32", "BF16")])
def test_other_source_types(dtype: str, stored_as: str, tmp_path: Path) -> None:
    model = TinyModel(**{**vars_of(SMALLEST), "dtype": dtype})
    source = write_checkpoint(tmp_path / "source", model)
    plan = small_plan(source)
    run(plan, tmp_path / "out")
    types = {placed.dtype for shard in plan.shards for placed in shard.tensors if placed.name.endswith(".weight")}
    assert types == {stored_as}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == {"F16": "float16", "BF16": "bfloat16"}[stored_as]
    assert decoded(tmp_path / "out").keys() == tiny_weights(model).keys()


def test_tied_embeddings_have_no_output_matrix(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", TinyModel(**{**vars_of(SMALLEST), "tied": True}))
    run(small_plan(source), tmp_path / "out")
    assert "lm_head.weight" not in decoded(tmp_path / "out")


@KINDS
def test_the_folder_is_complete(kind: str, source: Path, tmp_path: Path) -> None:
    outcome = run(small_plan(source, kind), tmp_path / "out")
    assert beside(tmp_path / "out") == set()
    assert outcome.conversion.n_weights == small_plan(source, kind).n_weights
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"} < names
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    listed = {line.split()[1] for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()}
    assert listed == names - {"SHA256SUMS"}
    assert len([name for name in names if name.endswith(".safetensors")]) == 3


def test_sampled_rows_are_spread_over_the_matrix(source: Path) -> None:
    plan = small_plan(source)
    tensor = next(tensor for tensor in plan.tensors if tensor.name == "model.embed_tokens.weight")
    with TensorReader() as reader:
        rows = SourceRowReader(reader)
        whole = rows.read(tensor, 0, 320)
        np.testing.assert_array_equal(sample_rows(tensor, 1000, rows), whole)
        few = sample_rows(tensor, 48, rows)
    np.testing.assert_array_equal(few, np.concatenate([whole[:16], whole[152:168], whole[304:]]))


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf")])
@pytest.mark.parametrize("name", ["mlp.experts.1.down_proj", "mlp.gate", "input_layernorm"])
@KINDS
def test_weights_that_are_no_numbers(kind: str, name: str, value: float, shown: str, tmp_path: Path) -> None:
    full = f"model.layers.0.{name}.weight"
    source = with_weights(tmp_path / "source", full, lambda values: values.__setitem__((..., 3), value))
    with pytest.raises(BadWeights, match=rf"tensor {full} holds {shown} at row 0, column 3"):
        run(small_plan(source, kind), tmp_path / "out")
    assert beside(tmp_path / "out") == LEFT
    assert not (tmp_path / "out").exists()


def with_weights(folder: Path, name: str, change) -> Path:
    """Write the checkpoint with one tensor changed, as F32: NaN has no place in the helper's BF16."""
    write_checkpoint(folder, TinyModel(**{**vars_of(SMALLEST), "dtype": "F32", "n_shards": 1}))
    values = tiny_weights(SMALLEST)
    change(values[name])
    write_safetensors(folder / "model.safetensors", values, "F32")
    return folder


def test_weights_beyond_any_scale(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    source = with_weights(tmp_path / "source", name, lambda values: values.__setitem__((5, 7), 1e8))
    with pytest.raises(BadWeights, match=rf"tensor {name} holds 1e\+08, for which no scale of type F16"):
        run(small_plan(source, "gptq"), tmp_path / "out")


def test_a_matrix_of_zeros_is_named_and_stored(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.0.up_proj.weight"
    source = with_weights(tmp_path / "source", name, lambda values: values.fill(0))
    assert run(small_plan(source), tmp_path / "out").zero_matrices == (name,)
    assert not decoded(tmp_path / "out")[name].any()


def test_an_export_replaces_only_an_export(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(small_plan(source), out)
    with pytest.raises(OutputExists, match="is there already"):
        run(small_plan(source, "gptq"), out)
    run(small_plan(source, "gptq"), out, force=True)
    assert (out / "quantize_config.json").exists()
    assert beside(out) == set()
    (out / "notes.docx").write_text("precious")
    with pytest.raises(OutputExists, match="other things in it"):
        run(small_plan(source), out, force=True)
    assert (out / "notes.docx").read_text() == "precious"
    assert beside(out) == set()


def test_an_empty_folder_is_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run(small_plan(source), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("below", ["", "checkpoint"])
def test_the_source_is_never_replaced(below: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "place" / below, SMALLEST)
    with pytest.raises(OutputExists, match="holds the source"):
        run(small_plan(source), tmp_path / "place", force=True)
    assert (source / "config.json").exists()


def test_a_source_that_changes_meanwhile(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", SMALLEST)
    plan = small_plan(source)
    (source / "config.json").write_text((source / "config.json").read_text() + " ")
    with pytest.raises(CheckpointError, match=r"changed while it was converted: source file config\.json"):
        run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_format_does_not_resume(source: Path, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_plan(source), tmp_path / "out", SlowFiles(), on_progress=stop)
    assert beside(tmp_path / "out") == LEFT
    with pytest.raises(ResumeRefused, match="format was awq, groups of 128, is gptq"):
        run(small_plan(source, "gptq"), tmp_path / "out")
    run(small_plan(source, "gptq"), tmp_path / "out", restart=True)
    assert beside(tmp_path / "out") == set()
