"""`qwenctl verify`: reread a GGUF file and look for damage."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from quant.verify import VerifyReport, verify_file
from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.model_store import find_model
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


@click.command(
    "verify",
    cls=Command,
    examples=["qwenctl verify qwen3-30b", "qwenctl verify model.gguf && echo sound"],
)
@click.argument("model", metavar="FILE")
@output_options
def command(*, model: str, output: Output, settings: Settings) -> None:
    """Check a GGUF file for damage.

    FILE is a GGUF file or a converted model's name. All of it is read and held against the digests that were written
    beside it; damaged tensors are named, and the exit code is 1. Without digests only the structure can be checked.
    """
    path = find_model(model, settings) or Path(model).expanduser()
    size_bytes = path.stat().st_size if path.is_file() else 0
    with output.progress("reading", size_bytes, format_amount=format_bytes) as bar:
        report = verify_file(path, lambda done_bytes, _: bar.update(done_bytes))
    _print_report(report, output)


def _print_report(report: VerifyReport, output: Output) -> None:
    if output.json_mode:
        output.data({**asdict(report), "path": str(report.path), "is_complete": report.is_complete})
        return
    size = format_bytes(report.size_bytes)
    if report.is_complete:
        output.line(f"{report.path}: sound: {report.n_tensors} tensors, {size}, every byte as it was written")
        return
    output.line(f"{report.path}: sound structure: {report.n_tensors} tensors, {size}")
    output.warning("no digests beside it, so the weights themselves were not checked")
