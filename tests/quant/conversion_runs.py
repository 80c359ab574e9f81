"""Run conversions of one small checkpoint in the ways that the tests of resuming need."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from quant import pipeline
from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import ConversionPlan, plan_conversion
from quant.durable_files import DurableFiles
from quant.libggml import load_libggml
from quant.pipeline import ConversionOutcome, run_plan
from quant.recipe import OUTPUT_TYPES
from tests.tiny_checkpoint import TinyModel, write_checkpoint

SMALLEST = TinyModel(n_layers=1, n_experts=2, n_experts_used=1, n_heads=2, n_kv_heads=1, vocab_size=320)


def small_plan(folder: Path, output_type: str = "q8_0") -> ConversionPlan:
    """Return the plan of a checkpoint of one layer, written to `folder` if it is not there: 17 slices."""
    if not (folder / "config.json").exists():
        write_checkpoint(folder, SMALLEST)
    return plan_conversion(folder, OUTPUT_TYPES[output_type])


def sync_every_slice(patch: pytest.MonkeyPatch) -> None:
    """Make the pipeline journal each slice by itself, as it does with slices of a large model."""
    patch.setattr(pipeline, "SYNC_BYTES", 0)
    patch.setattr(pipeline, "_POLL_S", 0.0)


def run(
    plan: ConversionPlan,
    out: Path,
    files: DurableFiles | None = None,
    n_threads: int = 1,
    quality: str = "fast",
) -> ConversionOutcome:
    """Run `plan` to `out`, resuming what is there."""
    return run_plan(plan, out, make_row_encoder(load_libggml(), quality), n_threads, files=files)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(out: Path) -> set[str]:
    """Return the suffixes of the files beside `out` that belong to it."""
    return {path.name.removeprefix(out.name) for path in out.parent.glob(out.name + "*")}
