"""`qwenctl models show`: where a model came from, and what it takes of the disk."""

from __future__ import annotations

from dataclasses import asdict

import click

from qwenctl.cli.command import Command
from qwenctl.cli.errors import one_line
from qwenctl.cli.model_list import model_document
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.default_model import read_default
from qwenctl.services.model_origin import Origin
from qwenctl.services.model_store import StoredModel, find_model, look_at, model_not_found
from qwenctl.services.split_files import model_files
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


@click.command(
    "show", cls=Command, examples=["qwenctl models show qwen3-8b-q4_k_m", "qwenctl models show qwen3:8b --json"]
)
@click.argument("name", metavar="NAME")
@output_options
def command(*, name: str, output: Output, settings: Settings) -> None:
    """Say where a model came from, and what it takes of the disk.

    NAME is a model's name, or what it was pulled by. What is in its file, `qwenctl show` tells.
    """
    path = find_model(name, settings)
    if path is None:
        raise model_not_found(name, settings)
    model = look_at(path)
    if output.json_mode:
        origin = asdict(model.origin) if model.origin else None
        output.data({**model_document(model, read_default(settings)), "origin": origin})
    else:
        rows = [*_here(model), *(_origin(model.origin) if model.origin else [("from", "made here")])]
        output.fields([(label, one_line(value)) for label, value in rows if value])
    if model.problem:
        output.warning(model.problem)


def _here(model: StoredModel) -> list[tuple[str, str]]:
    linked = f", {format_bytes(model.n_linked_bytes)} of it in the Hugging Face cache" if model.n_linked_bytes else ""
    rows = [("name", model.name), ("type", model.output_type or ""), ("size", format_bytes(model.n_bytes) + linked)]
    for part in model_files(model.path):
        rows.append(("file", f"{part} -> {part.resolve()}" if part.is_symlink() else str(part)))
    return rows


def _origin(origin: Origin) -> list[tuple[str, str]]:
    how = "as it is on the hub"
    if origin.converted_to:
        how = f"converted to {origin.converted_to}" + (f", weighed by {origin.imatrix}" if origin.imatrix else "")
    return [
        ("from", origin.page),
        ("revision", origin.revision),
        ("how", how),
        ("pulled", f"{origin.pulled_at} as {origin.asked}"),
        ("licence", ", ".join(filter(None, (origin.license, origin.license_link)))),
        ("made from", ", ".join(origin.base_models)),
        *(("sha256", f"{file.sha256}  {file.name}") for file in (*origin.files, *origin.sources) if file.sha256),
    ]
