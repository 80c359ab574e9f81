#!/usr/bin/env python3
"""Choose the scales that the encoders try: the tables in quant/codecs/native_encoders.

From a dense grid of scales (and, for types with a minimum, shifts), each step takes the one that lowers the summed
error of all blocks most, given those taken before. Blocks are of normal and Student-t weights and of the demo's, half
of them weighted. An encoder that has time for n candidates tries the first n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from quant.checkpoint import open_checkpoint
from quant.tensor_read import read_rows_f32

ROOT = Path(__file__).resolve().parent.parent
UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
N_BLOCKS = 4000  # of each kind


def blocks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and importances, (3 N_BLOCKS, 32) each."""
    tensors = open_checkpoint(ROOT / "qwenctl" / "demo").tensors.values()
    matrices = [info for info in tensors if len(info.shape) == 2 and info.n_columns == 256 and info.n_rows >= 64][:60]
    trained = np.concatenate([read_rows_f32(info) for info in matrices]).reshape(-1, 32)
    trained = trained[rng.choice(len(trained), N_BLOCKS, replace=False)]
    shape = (N_BLOCKS, 32)
    weights = np.concatenate([rng.standard_normal(shape), rng.standard_t(4, shape), trained / trained.std()])
    importances = np.exp(rng.standard_normal(weights.shape))
    importances[::2] = 1.0
    return weights, importances


def choose(errors: np.ndarray, names: Sequence[object], n: int) -> list[object]:
    """Return the `n` names that do best together, best first. `errors` is (n_names, n_blocks)."""
    best, chosen = np.full(errors.shape[1], np.inf), []
    bound = errors.min(axis=0).sum()
    for _ in range(n):
        index = int(np.minimum(errors, best).sum(axis=1).argmin())
        best = np.minimum(best, errors[index])
        chosen.append(names[index])
        if len(chosen) in {4, 8, 12, 16, 32, 64}:
            print(f"  {len(chosen)} of them: {best.sum() / bound:.4f} of the error with all")
    return chosen


def affine(top: int, weights: np.ndarray, importances: np.ndarray) -> list[object]:
    """For weight = scale·code − minimum, codes from 0 to `top`: (span, shift)."""
    y = weights - np.minimum(weights.min(axis=1, keepdims=True), 0)
    unit = y / y.max(axis=1, keepdims=True)
    w = importances / importances.mean(axis=1, keepdims=True)
    sum_w, sum_y, sum_yy = w.sum(axis=1), (w * y).sum(axis=1), (w * y * y).sum(axis=1)
    names, errors = [], []
    for shift in np.arange(-0.4, 1.81, 0.2):
        for span in np.arange(-5, 2.01, 0.2):
            codes = np.clip(np.rint(unit * (top + span) - shift), 0, top)
            sum_l, ll, yl = (w * codes).sum(axis=1), (w * codes**2).sum(axis=1), (w * y * codes).sum(axis=1)
            scale = (sum_w * yl - sum_y * sum_l) / np.maximum(sum_w * ll - sum_l**2, 1e-9)
            offset = (scale * sum_l - sum_y) / sum_w
            errors.append(
                sum_yy + scale * (scale * ll - 2 * (yl + offset * sum_l)) + offset * (2 * sum_y + offset * sum_w)
            )
            names.append((round(float(span), 1), round(float(shift), 1)))
    return choose(np.array(errors), names, 64)


def scaled(
    nearest: Callable[[np.ndarray], np.ndarray], levels: np.ndarray, weights: np.ndarray, importances: np.ndarray
) -> list[object]:
    """For weight = scale·value: the value that the largest magnitude lands on."""
    largest = weights[np.arange(len(weights)), np.abs(weights).argmax(axis=1)][:, None]
    w = importances / importances.mean(axis=1, keepdims=True)
    square = (w * weights**2).sum(axis=1)
    errors = []
    for level in levels:
        values = nearest(weights / largest * level)
        product, norm = (w * weights * values).sum(axis=1), (w * values**2).sum(axis=1)
        errors.append(square - product**2 / np.maximum(norm, 1e-9))
    return choose(np.array(errors), [round(float(level), 2) for level in levels], 32)


def main() -> None:
    """Print a table a type."""
    weights, importances = blocks(np.random.default_rng(1))

    def both(low: float, high: float, step: float, negative: float, positive: float) -> np.ndarray:
        return np.concatenate([-(negative + np.arange(low, high, step)), positive + np.arange(low, high, step)])

    def uneven(values: np.ndarray) -> np.ndarray:
        return UNEVEN[np.searchsorted((UNEVEN[1:] + UNEVEN[:-1]) / 2, values)]

    halves, half_importances = weights.reshape(-1, 16)[::2], importances.reshape(-1, 16)[::2]
    for title, make in (
        ("Q4_K: span, shift", lambda: affine(15, weights, importances)),
        ("Q5_K: span, shift", lambda: affine(31, weights, importances)),
        ("IQ4", lambda: scaled(uneven, both(-40, 41, 2, 127, 113), weights, importances)),
        (
            "Q4_0",
            lambda: scaled(lambda v: np.clip(np.rint(v), -8, 7), both(-3, 2.01, 0.125, 8, 7), weights, importances),
        ),
        (
            "Q6_K",
            lambda: scaled(
                lambda v: np.clip(np.rint(v), -32, 31), both(-14, 3.01, 0.25, 32, 31), halves, half_importances
            ),
        ),
    ):
        print(title)
        print("  " + ", ".join(map(str, make())))


if __name__ == "__main__":
    main()
