"""Types under a budget, end to end on the demo: measured errors, sizes kept to the byte, the same choice each time."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest

from quant.budget import Budget, choose_under_budget
from quant.codecs.native import decode_rows
from quant.codecs.row_encoder import RowEncoder, make_row_encoder
from quant.conversion_plan import ConversionPlan, ConversionSource, Importance, plan_source, read_source
from quant.errors import BadWeights, BudgetTooSmall, ImatrixMismatch
from quant.ggml_types import GGML_TYPES
from quant.imatrix import Imatrix, ImatrixEntry
from quant.libggml import LibGgml
from quant.recipe import OUTPUT_TYPES
from quant.recipe_file import types_of
from quant.safetensors_read import read_safetensors
from quant.sensitivity import sensitivity
from quant.tensor_info import TensorInfo
from quant.tensor_names import SourceRows, TargetTensor
from quant.tensor_read import TensorReader, read_rows_f32
from quant.type_error import relative_errors, sampled_rows
from tests.tiny_checkpoint import write_safetensors


@pytest.fixture(scope="module")
def source(demo_folder: Path) -> ConversionSource:
    return read_source(demo_folder)


@pytest.fixture(scope="module")
def encoder(lib: LibGgml) -> RowEncoder:
    return make_row_encoder(lib)


def _plan(source: ConversionSource, budget: Budget, encoder: RowEncoder) -> ConversionPlan:
    chosen = choose_under_budget(source, budget, encoder, n_threads=2)
    return plan_source(
        source, OUTPUT_TYPES["q4_k_m"], types=types_of(chosen.recipe, source.model.architecture, source.shapes)
    )


@pytest.mark.parametrize("n_bytes", [6_500_000, 9_818_112, 40_000_000])
def test_the_file_is_at_most_as_large(source: ConversionSource, encoder: RowEncoder, n_bytes: int) -> None:
    plan = _plan(source, Budget(n_bytes=n_bytes), encoder)
    assert plan.total_bytes <= n_bytes
    assert plan.total_bytes > 0.97 * n_bytes or n_bytes > 32_000_000  # all in BF16 is 31 MB


def test_bits_a_weight(source: ConversionSource, encoder: RowEncoder) -> None:
    plan = _plan(source, Budget(bits=4.7), encoder)
    assert 4.6 < plan.bits_per_weight <= 4.7


def test_less_loss_than_llama_cpps_mixture_of_the_size(source: ConversionSource, encoder: RowEncoder) -> None:
    stock = plan_source(source, OUTPUT_TYPES["q4_k_m"])
    chosen = choose_under_budget(source, Budget(n_bytes=stock.total_bytes), encoder)
    assert chosen.stock is not None
    assert chosen.stock.output.name == "q4_k_m"
    assert chosen.damage < 0.75 * chosen.stock.damage
    again = choose_under_budget(source, Budget(n_bytes=stock.total_bytes), encoder, n_threads=3)
    assert again == chosen


def test_importance_changes_the_choice(source: ConversionSource, encoder: RowEncoder) -> None:
    """Experts' inputs that are large in the columns where the weights are small lose little."""
    rng = np.random.default_rng(1)
    entries = {
        target.name: ImatrixEntry(
            np.exp(3 * rng.standard_normal((prod(target.shape[:-2]), target.shape[-1]))).astype(np.float32),
            np.full(prod(target.shape[:-2]), 100, np.float32),
        )
        for target in source.targets
        if len(target.shape) > 1 and "exps" in target.name
    }
    importance = Importance(Imatrix(entries), "x.gguf")
    budget = Budget(bits=4.8)
    plain = choose_under_budget(source, budget, encoder)
    weighted = choose_under_budget(source, budget, encoder, importance=importance)
    assert weighted.damage < plain.damage
    stranger = Importance(Imatrix({"blk.7.attn_q.weight": next(iter(entries.values()))}), "x.gguf")
    with pytest.raises(ImatrixMismatch):
        choose_under_budget(source, budget, encoder, importance=stranger)


def test_impossible_budgets(source: ConversionSource, encoder: RowEncoder) -> None:
    for n_bytes in (10_000, 3_000_000):
        with pytest.raises(BudgetTooSmall):
            choose_under_budget(source, Budget(n_bytes=n_bytes), encoder)
    with pytest.raises(ValueError, match="bytes or of bits"):
        Budget()


def test_errors_are_those_of_all_rows(source: ConversionSource, encoder: RowEncoder) -> None:
    """The demo's tensors are smaller than the sample, so nothing is left to chance."""
    target = next(target for target in source.targets if target.name == "blk.1.attn_q.weight")
    rows = read_rows_f32(target.sources[0].info)
    q4_k = GGML_TYPES["Q4_K"]
    blocks = np.ascontiguousarray(rows)
    decoded = encoder.encode(q4_k, blocks)
    error = float(np.square(decode_rows(encoder.lib, q4_k, decoded, 256) - rows).sum() / np.square(rows).sum())
    with TensorReader() as reader:
        found = relative_errors(target, [q4_k, GGML_TYPES["F32"]], None, reader, encoder)
    assert found["Q4_K"] == pytest.approx(error, rel=1e-5)
    assert found["F32"] == 0.0


def test_experts_count_by_their_tokens(source: ConversionSource, encoder: RowEncoder) -> None:
    target = next(target for target in source.targets if target.name == "blk.0.ffn_up_exps.weight")
    n_experts, _, n_columns = target.shape
    sums, counts = np.zeros((n_experts, n_columns), np.float32), np.zeros(n_experts, np.float32)
    sums[5], counts[5] = 7.0, 3
    q4_k = GGML_TYPES["Q4_K"]
    alone = TargetTensor("x.weight", target.shape[1:], (target.sources[5],))
    with TensorReader() as reader:
        found = relative_errors(target, [q4_k], ImatrixEntry(sums, counts), reader, encoder)
        expected = relative_errors(alone, [q4_k], None, reader, encoder)
    assert found["Q4_K"] == pytest.approx(expected["Q4_K"], rel=0.05)  # the others count as one token each


def test_samples_spread_over_experts_and_rows() -> None:
    def source(number: int, n_rows: int) -> SourceRows:
        info = TensorInfo(f"{number}", "BF16", (n_rows, 256), Path("x"), 0, n_rows * 512)
        return SourceRows(info, 0, n_rows)

    many = TargetTensor("e", (128, 64, 256), tuple(source(i, 64) for i in range(128)))
    found = list(sampled_rows(many, 16 * 256 * 32))
    assert len(found) == 32
    assert [matrix for matrix, _ in found] == list(range(2, 128, 4))
    wide = TargetTensor("w", (1000, 256), (source(0, 1000),))
    blocks = [rows for _, rows in sampled_rows(wide, 16 * 256 * 10)]
    assert [rows.n_rows for rows in blocks] == [16] * 10
    assert [rows.first_row for rows in blocks] == list(range(42, 1000, 100))
    small = TargetTensor("s", (5, 256), (source(0, 5),))
    assert [rows.n_rows for _, rows in sampled_rows(small)] == [5]


def test_bad_weights_name_the_tensor(tmp_path: Path, encoder: RowEncoder) -> None:
    rows = np.ones((16, 256), np.float32)
    rows[3, 7] = np.nan
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": rows}, "F32")
    info = read_safetensors(path).tensors["w"]
    target = TargetTensor("blk.0.attn_q.weight", (16, 256), (SourceRows(info, 0, 16),))
    with TensorReader() as reader, pytest.raises(BadWeights, match=r"blk\.0\.attn_q\.weight: nan at row 3, column 7"):
        relative_errors(target, [GGML_TYPES["Q4_K"]], None, reader, encoder)


def test_sensitivities() -> None:
    assert sensitivity("output.weight", 94) > 10 * sensitivity("blk.3.attn_output.weight", 94)
    assert sensitivity("blk.0.ffn_down_exps.weight", 4) == sensitivity("blk.0.ffn_down.weight", 4)
    assert sensitivity("blk.0.ffn_down.weight", 4) == 2 * sensitivity("blk.0.ffn_down.weight", 8)
    assert sensitivity("token_embd.weight", 4, tied=True) == pytest.approx(
        sensitivity("token_embd.weight", 4) + sensitivity("output.weight", 4)
    )
    assert sensitivity("blk.0.ssm_out.weight", 4) > 0
