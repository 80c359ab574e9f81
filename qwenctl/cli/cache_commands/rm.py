"""`qwenctl cache rm`: remove computed prompts."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.removal_report import print_removed
from qwenctl.errors import InvalidRequest
from qwenctl.services.model_removal import remove
from qwenctl.services.prefix_cache.listing import StoredPrefix, removable, stored_prefixes
from qwenctl.services.prefix_cache.options import FOLDER_NAME
from qwenctl.settings import Settings


@click.command(
    "rm",
    cls=Command,
    examples=["qwenctl cache rm 3fa2c1d0", 'qwenctl cache rm --model "Qwen3 8B"', "qwenctl cache rm --all --dry-run"],
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--model", metavar="NAME", help="Those of models that have this in their name.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Say what would go. Remove nothing.")
@output_options
def command(
    *, ids: tuple[str, ...], model: str | None, everything: bool, dry_run: bool, output: Output, settings: Settings
) -> None:
    """Remove kept prompts.

    What they were made of is not lost: the next time, it is computed again.
    """
    if sum((bool(ids), model is not None, everything)) != 1:
        raise InvalidRequest("say which prompts: IDs, --model NAME or --all", "qwenctl cache lists them")
    found = stored_prefixes(settings.cache_dir / FOLDER_NAME)
    chosen = found
    if model is not None:
        chosen = [one for one in found if model.lower() in (one.model or "").lower()]
    if ids:
        chosen = [one for number in dict.fromkeys(ids) for one in _named(number, found)]
    removables = tuple(removable(one) for one in chosen)
    if not dry_run:
        remove(removables)
    print_removed(removables, output, dry_run=dry_run)


def _named(number: str, found: list[StoredPrefix]) -> list[StoredPrefix]:
    named = [one for one in found if one.path.stem.startswith(number)]
    if not named or len(number) < 4:
        raise InvalidRequest(f"no kept prompt {number}", "qwenctl cache lists them; four digits are enough")
    return named
