"""Prints the models that are here: for `qwenctl models` and `qwenctl models ls`."""

from __future__ import annotations

import shutil
from typing import Any

from qwenctl.cli.output import Output
from qwenctl.services.default_model import read_default
from qwenctl.services.model_store import StoredModel, list_models
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


def print_models(output: Output, settings: Settings) -> None:
    """Print a line for each model, and what they take of the disk together."""
    models, default = list_models(settings), read_default(settings)
    if output.json_mode:
        output.data([model_document(model, default) for model in models])
    elif models:
        rows = [
            (model.name, format_bytes(model.n_bytes), model.output_type or "?", _origin(model), model.path)
            for model in models
        ]
        output.table(("NAME", "SIZE", "TYPE", "FROM", "PATH"), rows, right=(1,))
        output.note(_summary(models, default, settings))
    else:
        output.note(f"no models in {settings.models_dir}; qwenctl pull gets them, qwenctl convert makes them")
    for model in models:
        if model.problem:
            output.warning(model.problem)


def model_document(model: StoredModel, default: str | None) -> dict[str, Any]:
    """Return a model for `--json`."""
    return {
        "name": model.name,
        "bytes": model.n_bytes,
        "linked_bytes": model.n_linked_bytes,
        "files": model.n_files,
        "type": model.output_type,
        "repo": model.origin.repo if model.origin else None,
        "commit": model.origin.commit if model.origin else None,
        "path": str(model.path),
        "default": model.name == default,
        "problem": model.problem,
    }


def _origin(model: StoredModel) -> str:
    return model.origin.repo if model.origin else "-"


def _summary(models: tuple[StoredModel, ...], default: str | None, settings: Settings) -> str:
    total = sum(model.n_bytes for model in models)
    linked = sum(model.n_linked_bytes for model in models)
    words = [f"{format_bytes(total)} in all"]
    if linked:
        words.append(f"{format_bytes(linked)} of it in the Hugging Face cache")
    if settings.models_dir.is_dir():
        words.append(f"{format_bytes(shutil.disk_usage(settings.models_dir).free)} free")
    if default:
        words.append(f"default: {default}")
    return "; ".join(words)
