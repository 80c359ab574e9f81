"""`qwenctl models verify`: every byte of the models that are here, held against what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from quant.errors import QuantError
from quant.shown import some
from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.verify_report import check_with_bar, print_report, report_document
from qwenctl.errors import QwenctlError
from qwenctl.services.model_store import find_model, list_models, model_not_found
from qwenctl.settings import Settings


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was found of one model; `damage` None: nothing is wrong."""

    document: dict[str, Any]
    damage: str | None = None


@click.command(
    "verify",
    cls=Command,
    examples=["qwenctl models verify                   # all of them", "qwenctl models verify qwen3-8b-q4_k_m --json"],
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@output_options
def command(*, names: tuple[str, ...], output: Output, settings: Settings) -> None:
    """Check models for damage.

    All of them, or those that are named, are read and held against their digests or the hub's hashes. Damaged files
    are named, and the exit code is 1.
    """
    paths = {name: find_model(name, settings) for name in names} or {
        model.name: model.path for model in list_models(settings)
    }
    outcomes = []
    for name, path in paths.items():
        if path is None:
            raise model_not_found(name, settings)
        try:
            report = check_with_bar(path, output, f"reading {name}")
        except QuantError as error:
            output.error(error.message, error.hint)
            outcomes.append(_Outcome({"name": name, "path": str(path), "damage": error.message}, name))
            continue
        outcomes.append(_Outcome({"name": name, **report_document(report)}))
        if not output.json_mode:
            print_report(report, output)
    if output.json_mode:
        output.data([outcome.document for outcome in outcomes])
    elif not outcomes:
        output.note(f"no models in {settings.models_dir}")
    damaged = [outcome.damage for outcome in outcomes if outcome.damage]
    if damaged:
        raise QwenctlError(f"{len(damaged)} of {len(outcomes)} models damaged: {some(damaged, 8)}")
