"""A whole conversion, BF16 checkpoint → Q4_K_M: our one pass beside the usual two steps, on the same cores.

The two steps are our own BF16 GGUF (quicker than convert_hf_to_gguf.py, which needs torch) and `llama_model_quantize`.
Ours is timed with syncing and reading back, llama.cpp's call without. Disk is what is written beside the checkpoint.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench_convert import Run, run_llama, run_ours


@dataclass(frozen=True, slots=True)
class ConversionRow:
    """Medians. `two_steps_s` is bf16_s + llama_s."""

    type: str
    n_weights: int
    ours_s: float
    bf16_s: float
    llama_s: float
    two_steps_s: float
    ratio: float
    ratio_without_first_step: float
    ours_bytes: int
    two_steps_bytes: int
    disk_ratio: float


def measure_conversion(
    source: Path, work: Path, n_runs: int, n_threads: int, note: Callable[[str], None] = lambda _: None
) -> ConversionRow:
    """Convert `source` in turns."""
    bf16_path, ours_path, llama_path = work / "bf16.gguf", work / "ours.gguf", work / "llama.gguf"
    bf16: list[Run] = []
    ours: list[Run] = []
    llama: list[Run] = []
    n_weights = 0
    for number in range(n_runs):
        note(f"conversion {number + 1} of {n_runs}")
        run, n_weights = run_ours(source, bf16_path, "bf16", n_threads)
        bf16.append(run)
        llama.append(run_llama(bf16_path, llama_path, "q4_k_m", n_threads))
        ours.append(run_ours(source, ours_path, "q4_k_m", n_threads)[0])
        os.sync()

    def median(runs: list[Run]) -> float:
        return float(statistics.median(run.seconds for run in runs))

    ours_s, bf16_s, llama_s = median(ours), median(bf16), median(llama)
    ours_bytes = ours_path.stat().st_size
    two_steps_bytes = bf16_path.stat().st_size + llama_path.stat().st_size
    return ConversionRow(
        type="q4_k_m",
        n_weights=n_weights,
        ours_s=ours_s,
        bf16_s=bf16_s,
        llama_s=llama_s,
        two_steps_s=bf16_s + llama_s,
        ratio=(bf16_s + llama_s) / ours_s,
        ratio_without_first_step=llama_s / ours_s,
        ours_bytes=ours_bytes,
        two_steps_bytes=two_steps_bytes,
        disk_ratio=ours_bytes / two_steps_bytes,
    )


def show_conversion(row: ConversionRow) -> str:
    """Return the figures as text."""
    sys.stderr.flush()
    return (
        f"BF16 checkpoint of {row.n_weights / 1e6:,.0f} M weights → {row.type}: ours {row.ours_s:.1f} s "
        f"({row.n_weights / row.ours_s / 1e6:.0f} M weights/s); BF16 GGUF {row.bf16_s:.1f} s + llama_model_quantize "
        f"{row.llama_s:.1f} s: {row.ratio:.1f} times as fast ({row.ratio_without_first_step:.1f} times the second step "
        f"alone)\nwritten: {row.ours_bytes / 1e6:,.0f} MB beside {row.two_steps_bytes / 1e6:,.0f} MB: "
        f"{row.disk_ratio:.2f}, and nothing of it is temporary"
    )
