"""`qwenctl models`: list the converted models."""

from __future__ import annotations

from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.model_store import StoredModel, list_models
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
        output.data([_document(model) for model in models])
    elif models:
        rows = [(model.name, format_bytes(model.n_bytes), model.output_type or "?", model.path) for model in models]
        output.table(("NAME", "SIZE", "TYPE", "PATH"), rows, right=(1,))
    else:
        output.note(f"no converted models in {settings.models_dir}; qwenctl convert makes them")
    for model in models:
        if model.problem:
            output.warning(model.problem)


def _document(model: StoredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "bytes": model.n_bytes,
        "type": model.output_type,
        "path": str(model.path),
        "problem": model.problem,
    }
