"""`qwenctl sessions rm`: remove saved chats."""

from __future__ import annotations

import time

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.session_list import session_document
from qwenctl.services.session import SessionHead
from qwenctl.services.session_choice import open_store, session_by_id
from qwenctl.services.session_store import SessionQuery, SessionStore
from qwenctl.settings import Settings
from qwenctl.units import counted

_DAY_S = 86400


@click.command(
    "rm",
    cls=Command,
    examples=[
        "qwenctl sessions rm 3fa2c1d0",
        "qwenctl sessions rm --older-than 90 --dry-run",
        "qwenctl sessions rm --all",
    ],
)
@click.argument("sessions", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all of them.")
@click.option(
    "--older-than", "n_days", type=click.IntRange(min=0), metavar="DAYS", help="Remove those without a turn since then."
)
@click.option("--dry-run", is_flag=True, help="Say what would go. Remove nothing.")
@output_options
def command(
    *,
    sessions: tuple[str, ...],
    everything: bool,
    n_days: int | None,
    dry_run: bool,
    output: Output,
    settings: Settings,
) -> None:
    """Remove saved chats.

    Their text is overwritten in qwenctl's file, not only forgotten. ID may be shortened to its first four digits.
    """
    if sum((bool(sessions), everything, n_days is not None)) != 1:
        raise click.UsageError("name chats by ID, or say --all or --older-than: one of the three")
    store = open_store(settings)
    chosen = _chosen(store, sessions, n_days)
    if not dry_run:
        store.remove([head.session_id for head in chosen])
    if output.json_mode:
        output.data({"dry_run": dry_run, "removed": [session_document(head) for head in chosen]})
        return
    for head in chosen:
        output.line(f"{head.session_id}  {head.title}")
    count = counted(len(chosen), "chat")
    output.note(f"{count} would be removed" if dry_run else f"{count} removed")


def _chosen(store: SessionStore, sessions: tuple[str, ...], n_days: int | None) -> list[SessionHead]:
    if sessions:
        heads = [session_by_id(store, text) for text in sessions]
        return list({head.session_id: head for head in heads}.values())
    return list(store.heads(SessionQuery(until_s=None if n_days is None else time.time() - n_days * _DAY_S)))
