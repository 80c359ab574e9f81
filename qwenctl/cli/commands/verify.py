"""`qwenctl verify`: read a GGUF file and look for damage."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.verify_report import check_with_bar, print_report, report_document
from qwenctl.services.model_store import find_model
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings


@click.command(
    "verify",
    cls=Command,
    examples=["qwenctl verify qwen3-30b", "qwenctl verify model.gguf && echo sound"],
)
@click.argument("model", metavar="FILE")
@output_options
def command(*, model: str, output: Output, settings: Settings) -> None:
    """Check a GGUF file for damage.

    FILE is a GGUF file or a model's name. All of it is read and held against the digests that were written beside it,
    or against the hub's hashes if it was pulled; what is damaged is named, and the exit code is 1. Without either only
    the structure can be checked.
    """
    report = check_with_bar(find_model(model, settings) or typed_path(model), output)
    if output.json_mode:
        output.data(report_document(report))
    else:
        print_report(report, output)
