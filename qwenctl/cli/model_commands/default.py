"""`qwenctl models default`: which model is used where none is named."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.default_model import read_default, write_default
from qwenctl.services.demo_file import DEMO_NAME
from qwenctl.services.model_store import is_model, model_not_found
from qwenctl.settings import Settings


@click.command(
    "default",
    cls=Command,
    examples=[
        "qwenctl models default                   # which it is",
        "qwenctl models default qwen3-8b-q4_k_m",
        "qwenctl models default --unset           # the bundled demo again",
    ],
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--unset", is_flag=True, help="Choose none: then the bundled demo answers.")
@output_options
def command(*, name: str | None, unset: bool, output: Output, settings: Settings) -> None:
    """Choose the model that is used where none is named.

    `run`, `chat`, `batch` and all others that take a MODEL use it. Without NAME, the one that is chosen is printed.
    """
    if name is not None and unset:
        raise click.UsageError("--unset chooses no model: leave NAME out")
    if name is not None and not is_model(name, settings):
        raise model_not_found(name, settings)
    if name is not None or unset:
        write_default(name, settings)
    chosen = read_default(settings)
    if output.json_mode:
        output.data({"default": chosen or DEMO_NAME, "is_chosen": chosen is not None})
    else:
        output.line(chosen or DEMO_NAME)
