"""Encoders beside ggml's, on one core: weights a second in turns, and the error of each.

A rate is that of the call on weights in memory, by the CPU time of the calling thread, the median of the turns. An
error is the sum of squares of what decoding gives less the weights, each weighted by the importance of its column.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from quant.codecs import native
from quant.codecs.fast import FAST_TYPES
from quant.codecs.row_encoder import RowEncoder, make_row_encoder
from quant.ggml_types import GgmlType
from quant.libggml import LibGgml

from .weights import Rows, importance, weight_sets

LEAST_S = 0.03
"""That one measurement lasts."""


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """One type, with or without importance. Ratios of rates: ours to ggml's, the least over the sets of weights.

    `error_ratio` is the largest over them; `errors` has each. `best_…` is --quality best.
    """

    type: str
    imatrix: bool
    ggml_mweights_per_s: float
    ours_mweights_per_s: float
    ratio: float
    error_ratio: float
    best_mweights_per_s: float
    best_ratio: float
    best_error_ratio: float
    errors: Mapping[str, float]
    best_errors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Measured:
    seconds: tuple[float, float, float]  # ggml, fast, best
    errors: tuple[float, float, float]


def measure_encoders(
    lib: LibGgml, n_weights: int, n_turns: int, note: Callable[[str], None] = lambda _: None
) -> list[EncoderRow]:
    """Return a row for each of our types, without and with importance."""
    sets = list(weight_sets(lib, n_weights))
    rows = []
    for ggml_type in FAST_TYPES:
        for weighted in (False, True):
            note(f"{ggml_type.name}{' with importance' if weighted else ''}")
            found = {name: _measure(lib, ggml_type, weights, weighted, n_turns) for name, weights in sets}
            rows.append(_row(ggml_type, weighted, {name: weights.size for name, weights in sets}, found))
    return rows


def _measure(lib: LibGgml, ggml_type: GgmlType, rows: Rows, weighted: bool, n_turns: int) -> _Measured:
    columns = importance(rows.shape[1]) if weighted else None
    buffer = np.empty(len(rows) * ggml_type.row_bytes(rows.shape[1]), np.uint8)
    encoders = (make_row_encoder(lib, "exact"), make_row_encoder(lib, "fast"), make_row_encoder(lib, "best"))
    seconds: list[list[float]] = [[], [], []]
    errors = []
    for turn in range(n_turns):
        for number, encoder in enumerate(encoders):
            if turn == 0:
                encoded = encoder.encode(ggml_type, rows, columns, buffer)
                errors.append(_error(lib, ggml_type, rows, encoded, columns))
            seconds[number].append(_timed(encoder, ggml_type, rows, columns, buffer))
    medians = [statistics.median(each) for each in seconds]
    return _Measured((medians[0], medians[1], medians[2]), (errors[0], errors[1], errors[2]))


def _timed(encoder: RowEncoder, ggml_type: GgmlType, rows: Rows, columns: Rows | None, buffer: np.ndarray) -> float:
    """Seconds a call, repeated for long enough that the clock and a cold cache do not count.

    ggml is timed by its own call alone, without the checks that ours have inside.
    """
    address = None if columns is None else columns.ctypes.data

    def call() -> None:
        if encoder.fast is None:
            encoder.lib.quantize_chunk(ggml_type.type_id, rows.ctypes.data, buffer.ctypes.data, *rows.shape, address)
        else:
            encoder.encode(ggml_type, rows, columns, buffer)

    n_calls, started = 0, time.thread_time()
    while (passed := time.thread_time() - started) < LEAST_S or n_calls == 0:
        call()
        n_calls += 1
    return passed / n_calls


def _error(lib: LibGgml, ggml_type: GgmlType, rows: Rows, encoded: np.ndarray, columns: Rows | None) -> float:
    difference = native.decode_rows(lib, ggml_type, encoded, rows.shape[1])
    difference -= rows
    energies = np.einsum("ij,ij->j", difference, difference, dtype=np.float64)
    return float(energies.sum() if columns is None else energies @ columns.astype(np.float64))


def _row(ggml_type: GgmlType, weighted: bool, sizes: Mapping[str, int], found: Mapping[str, _Measured]) -> EncoderRow:
    def rate(number: int) -> float:
        return statistics.median(sizes[name] / one.seconds[number] for name, one in found.items()) / 1e6

    def least_ratio(number: int) -> float:
        return min(one.seconds[0] / one.seconds[number] for one in found.values())

    def errors(number: int) -> dict[str, float]:
        return {name: one.errors[number] / one.errors[0] for name, one in found.items()}

    return EncoderRow(
        type=ggml_type.name,
        imatrix=weighted,
        ggml_mweights_per_s=rate(0),
        ours_mweights_per_s=rate(1),
        ratio=least_ratio(1),
        error_ratio=max(errors(1).values()),
        best_mweights_per_s=rate(2),
        best_ratio=least_ratio(2),
        best_error_ratio=max(errors(2).values()),
        errors=errors(1),
        best_errors=errors(2),
    )


def show_encoders(rows: Iterable[EncoderRow]) -> str:
    """Return the table as text."""
    lines = [
        "M weights/s on one core (medians), ratios to ggml's (the worst over the sets of weights)",
        f"{'type':8} {'imatrix':7} {'ggml':>7} | {'fast':>7} {'rate':>6} {'error':>7} | "
        f"{'best':>7} {'rate':>6} {'error':>7}   error of fast by set",
    ]
    for row in rows:
        sets = ", ".join(f"{name} {ratio:.3f}" for name, ratio in row.errors.items())
        lines.append(
            f"{row.type:8} {'yes' if row.imatrix else 'no':7} {row.ggml_mweights_per_s:7.1f} | "
            f"{row.ours_mweights_per_s:7.1f} {row.ratio:5.1f}x {row.error_ratio:7.4f} | "
            f"{row.best_mweights_per_s:7.1f} {row.best_ratio:5.1f}x {row.best_error_ratio:7.4f}   {sets}"
        )
    return "\n".join(lines)
