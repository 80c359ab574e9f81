"""What `qwenctl batch` says while it runs and at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.output import Output
from qwenctl.cli.progress import Progress
from qwenctl.cli.reply_stats import tokens_per_second
from qwenctl.services.batch import BatchProgress, BatchSummary
from qwenctl.units import format_seconds


def shown_on(bar: Progress, watch: InterruptWatch) -> Callable[[BatchProgress], None]:
    """Return a listener that moves `bar`, and ends the run where `watch` was asked to."""

    def show(progress: BatchProgress) -> None:
        watch.raise_if_requested()
        remarks = [f"{progress.tokens_per_s:.1f} tokens/s"]
        if progress.seconds_left is not None:
            remarks.insert(0, f"{format_seconds(progress.seconds_left)} left")
        if progress.n_errors:
            remarks.append(f"{progress.n_errors} errors")
        bar.update(progress.n_finished, " · ".join(remarks), total=progress.n_total)

    return show


def report(summary: BatchSummary, offload: dict[str, Any] | None, out_path: Path, output: Output) -> None:
    """Write the summary: a line on standard error, or the document of `--json`."""
    rate = tokens_per_second(summary.n_generated_tokens, summary.seconds)
    if output.json_mode:
        rounded = None if rate is None else round(rate, 2)
        output.data({"output": str(out_path), **asdict(summary), "tokens_per_s": rounded, "offload": offload})
        return
    parts = [f"{summary.n_done} answered"]
    if summary.n_skipped:
        parts.append(f"{summary.n_skipped} already there")
    if summary.n_errors:
        parts.append(f"{summary.n_errors} errors")
    if summary.n_retries:
        parts.append(f"{summary.n_retries} tried again")
    prompt = f"{summary.n_prompt_tokens:,} prompt tokens"
    if summary.n_cached_tokens:
        prompt += f", {summary.n_cached_tokens:,} of them cached"
    parts += [prompt, f"{summary.n_generated_tokens:,} tokens in {format_seconds(summary.seconds)}"]
    if rate:
        parts.append(f"{rate:.1f} tokens/s")
    output.note(f"{out_path}: {' · '.join(parts)}")
