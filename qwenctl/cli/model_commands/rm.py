"""`qwenctl models rm`: remove models, with all that belongs to them."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.removal_report import print_removed
from qwenctl.services.default_model import write_default
from qwenctl.services.model_removal import default_among, files_of, remove
from qwenctl.settings import Settings


@click.command(
    "rm",
    cls=Command,
    examples=["qwenctl models rm qwen3-8b-q4_k_m", "qwenctl models rm qwen3-8b-q4_k_m old-model --dry-run"],
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Say what would go. Remove nothing.")
@output_options
def command(*, names: tuple[str, ...], dry_run: bool, output: Output, settings: Settings) -> None:
    """Remove models.

    Files, digests and the record of where it came from go. Of a model that lies in the Hugging Face cache, the link
    goes; `hf cache rm` removes the rest.
    """
    found = tuple(removable for name in dict.fromkeys(names) for removable in files_of(name, settings))
    if not dry_run:
        default = default_among(found, settings)
        remove(found)
        if default is not None:
            write_default(None, settings)
            output.note(f"{default} was the default model; now there is none")
    print_removed(found, output, dry_run=dry_run)
