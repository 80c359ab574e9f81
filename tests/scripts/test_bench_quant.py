"""The bench of encoders: rows with what was asked for, real ratios, and a table that shows them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from quant.libggml import load_libggml
from scripts.quant_bench.encoders import EncoderRow, measure_encoders, show_encoders
from scripts.quant_bench.weights import weight_sets

ASKED = {"type", "imatrix", "ggml_mweights_per_s", "ours_mweights_per_s", "ratio", "error_ratio"}


@pytest.fixture(scope="module")
def rows() -> list[EncoderRow]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.quant_bench.encoders.LEAST_S", 0.0)
        return measure_encoders(load_libggml(), 1 << 14, 1)


def test_every_type_without_and_with_importance(rows: list[EncoderRow]) -> None:
    assert len(rows) == len({(row.type, row.imatrix) for row in rows}) == 16
    assert all(asdict(row).keys() >= ASKED for row in rows)


def test_figures_are_of_this_run(rows: list[EncoderRow]) -> None:
    for row in rows:
        assert 0 < row.error_ratio <= 1
        assert row.error_ratio == max(row.errors.values())
        assert row.best_error_ratio <= row.error_ratio
        assert min(row.ggml_mweights_per_s, row.ours_mweights_per_s, row.ratio, row.best_ratio) > 0
        assert f"{row.error_ratio:7.4f}" in show_encoders([row])


def test_weights_are_real() -> None:
    sets = dict(weight_sets(load_libggml(), 1 << 14))
    assert set(sets) >= {"normal", "heavy-tailed", "demo"}
    for name, weights in sets.items():
        assert weights.dtype == np.float32, name
        assert np.isfinite(weights).all()
        assert 0 < np.abs(weights).max() < 100
