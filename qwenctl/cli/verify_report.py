"""Checks a model's file for damage, with a bar, and prints what was found: for `verify` and `models verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from quant.verify import VerifyReport
from qwenctl.cli.output import Output
from qwenctl.services.model_check import check_model
from qwenctl.services.split_files import model_files
from qwenctl.units import format_bytes


def check_with_bar(path: Path, output: Output, label: str = "reading") -> VerifyReport:
    """Read a model and show how far it is. Raises what `check_model` does."""
    size_bytes = sum(part.stat().st_size for part in model_files(path) if part.is_file())
    with output.progress(label, size_bytes, format_amount=format_bytes) as bar:
        return check_model(path, lambda done_bytes, _: bar.update(done_bytes))


def report_document(report: VerifyReport) -> dict[str, Any]:
    """Return the report for `--json`."""
    return {**asdict(report), "path": str(report.path), "is_complete": report.is_complete}


def print_report(report: VerifyReport, output: Output) -> None:
    """Print one line; where not every byte could be checked, a warning."""
    size = format_bytes(report.size_bytes)
    if report.is_complete:
        output.line(f"{report.path}: sound: {report.n_tensors} tensors, {size}, every byte as it was written")
        return
    output.line(f"{report.path}: sound structure: {report.n_tensors} tensors, {size}")
    output.warning("no digests beside it, so the weights themselves were not checked")
