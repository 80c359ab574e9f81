"""`qwenctl models prune`: remove what interrupted and outdated work has left."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.removal_report import print_removed
from qwenctl.services.model_removal import find_leftovers, remove
from qwenctl.settings import Settings


@click.command("prune", cls=Command, examples=["qwenctl models prune --dry-run", "qwenctl models prune"])
@click.option("--dry-run", is_flag=True, help="Say what would go. Remove nothing.")
@output_options
def command(*, dry_run: bool, output: Output, settings: Settings) -> None:
    """Remove what interrupted and outdated work has left.

    In the models folder: unfinished pulls and conversions that no process is at work on, records without a model, links
    that lead nowhere. In the cache folder: what can be made or fetched again and is not in use.
    """
    found = find_leftovers(settings)
    if not dry_run:
        remove(found)
    print_removed(found, output, dry_run=dry_run)
