"""`qwenctl models`: list the converted models."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.model_store import list_models
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


@click.command(
    "models",
    cls=Command,
    examples=["qwenctl models", "qwenctl models --json"],
)
@output_options
def command(output: Output, settings: Settings) -> None:
    """List the converted models.

    They lie in QWENCTL_MODELS, by default in qwenctl's data folder.
    """
    models = list_models(settings)
    if output.json_mode:
        output.data([{"name": path.stem, "bytes": path.stat().st_size, "path": str(path)} for path in models])
    elif models:
        rows = [(path.stem, format_bytes(path.stat().st_size), path) for path in models]
        output.table(("NAME", "SIZE", "PATH"), rows, right=(1,))
    else:
        output.note(f"no converted models in {settings.models_dir}")
