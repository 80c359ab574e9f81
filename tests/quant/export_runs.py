"""Run exports of one small checkpoint in the ways that their tests need, and read what they wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from quant.checkpoint import open_checkpoint
from quant.durable_files import DurableFiles
from quant.export_format import ExportFormat
from quant.export_pipeline import ExportOutcome, run_export
from quant.export_plan import ExportPlan, plan_export
from quant.hf_config import read_config
from quant.imatrix import Imatrix, ImatrixEntry
from quant.second_moments import MomentsEntry, SecondMoments, read_second_moments, write_second_moments
from quant.tensor_read import TensorReader
from tests.tiny_checkpoint import TinyModel, write_checkpoint

SMALLEST = TinyModel(
    n_layers=1,
    n_experts=2,
    n_experts_used=1,
    n_heads=2,
    n_kv_heads=1,
    hidden=128,
    expert_width=128,
    vocab_size=320,
)
"""Qwen3-MoE in which every matrix has one or two groups: 22 units and 5 sites."""

LEFT = {".partial", ".factors", ".journal"}
"""What stands beside an output that is not complete."""


def small_plan(folder: Path, kind: str = "awq", **given) -> ExportPlan:
    """Return the plan of a checkpoint of one layer, written to `folder` if it is not there, in three shards."""
    if not (folder / "config.json").exists():
        write_checkpoint(folder, SMALLEST)
    return plan_export(folder, ExportFormat(kind), **{"max_shard_bytes": 110_000} | given)


def run(plan: ExportPlan, out: Path, files: DurableFiles | None = None, n_threads: int = 1, **given) -> ExportOutcome:
    """Run `plan` to `out`, resuming what is there."""
    return run_export(plan, out, n_threads, files=files, **given)


def digest(folder: Path) -> str:
    """Return a digest of the names and contents of all files in a folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def beside(out: Path) -> set[str]:
    """Return the suffixes of what belongs to `out` beside it."""
    return {path.name.removeprefix(out.name) for path in out.parent.glob(out.name + "*")} - {""}


def decoded(folder: Path) -> dict[str, np.ndarray]:
    """Return every weight of an exported checkpoint, f32, by its Hugging Face name, as the program's reader sees it."""
    checkpoint = open_checkpoint(folder, read_config(folder).packed)
    with TensorReader() as reader:
        return {
            name: reader.read_rows_f32(info, 0, info.n_rows).reshape(info.shape).copy()
            for name, info in checkpoint.tensors.items()
        }


def statistics(plan: ExportPlan, seed: int = 0, loudness: float = 1.5) -> tuple[Imatrix, dict[str, MomentsEntry]]:
    """Return an importance matrix and second moments of made-up inputs with a few loud columns, for every matrix."""
    random = np.random.default_rng(seed)
    n_matrices: dict[str, int] = {}
    n_columns: dict[str, int] = {}
    for tensor in plan.tensors:
        if tensor.is_packed:
            n_matrices[tensor.gguf_name] = max(n_matrices.get(tensor.gguf_name, 0), tensor.matrix + 1)
            n_columns[tensor.gguf_name] = tensor.n_columns
    entries, moments = {}, {}
    for name, count in n_matrices.items():
        loud = np.exp(random.standard_normal(n_columns[name]) * loudness).astype(np.float32)
        mixed = random.standard_normal((count, 2048, 8)) @ random.standard_normal((8, n_columns[name]))
        x = ((random.standard_normal(mixed.shape) + 0.5 * mixed) * loud).astype(np.float32)
        counts = np.full(count, 2048, np.float32)
        h = np.einsum("etc,etd->ecd", x, x).astype(np.float32)
        entries[name] = ImatrixEntry(np.einsum("ecc->ec", h).copy(), counts)
        moments[name] = MomentsEntry(h, counts)
    return Imatrix(entries, ("made up",)), moments


def written_moments(path: Path, entries: dict[str, MomentsEntry]) -> SecondMoments:
    """Write second moments to `path` and open them."""
    write_second_moments(path, entries)
    return read_second_moments(path)
