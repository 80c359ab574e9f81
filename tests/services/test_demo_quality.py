"""The whole way from weights to probabilities, held against transformers: checkpoint → GGUF → llama.cpp → logits.

The reference (tests/data/demo_reference.npz) was computed by transformers in f32 from the demo's bf16 weights; see
scripts/demo_model/reference.py. llama.cpp keeps keys and values in F16, which bounds how close it can come.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quant.divergence import Divergence, summarize
from qwenctl.services.conversion import convert
from qwenctl.services.logits import sequence_logits

REFERENCE = Path(__file__).parent.parent / "data" / "demo_reference.npz"


@pytest.fixture(scope="module")
def f32_logits(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """f32 (n_tokens, n_vocab) for each sequence of the reference, from our F32 conversion."""
    out = tmp_path_factory.mktemp("f32") / "demo.gguf"
    convert(demo_folder, out, "f32")
    with np.load(REFERENCE) as stored:
        return list(sequence_logits(out, stored["ids"]))


def against_transformers(logits: list[np.ndarray]) -> Divergence:
    """Divergence from the reference; the most likely tokens are stored apart, since f16 makes ties."""
    with np.load(REFERENCE) as stored:
        same_top = [(ours.argmax(axis=-1) == best).mean() for ours, best in zip(logits, stored["top"], strict=True)]
        return replace(summarize(zip(stored["logprobs"], logits, strict=True)), same_top=float(np.mean(same_top)))


def test_f32_conversion_predicts_what_transformers_predicts(f32_logits: list[np.ndarray]) -> None:
    divergence = against_transformers(f32_logits)
    assert divergence.n_tokens == 2048
    assert divergence.mean <= 1e-5
    assert divergence.same_top >= 0.999


@pytest.mark.parametrize(("output_type", "most_kld"), [("bf16", 3e-4), ("q8_0", 1e-3), ("q4_k_m", 1.5e-2)])
def test_quantized_conversions_stay_close_to_f32(
    f32_logits: list[np.ndarray], demo_folder: Path, tmp_path: Path, output_type: str, most_kld: float
) -> None:
    """Bounds are several times what was measured, and far below what one wrong tensor does."""
    out = tmp_path / "demo.gguf"
    convert(demo_folder, out, output_type)
    with np.load(REFERENCE) as stored:
        divergence = summarize(zip(f32_logits, sequence_logits(out, stored["ids"]), strict=True))
    assert divergence.mean <= most_kld
