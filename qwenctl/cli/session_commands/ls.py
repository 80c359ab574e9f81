"""`qwenctl sessions ls`: which chats are saved."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.point_in_time import PointInTime
from qwenctl.cli.session_list import print_sessions
from qwenctl.services.session_choice import open_store
from qwenctl.services.session_store import SessionQuery
from qwenctl.settings import Settings


@click.command(
    "ls",
    cls=Command,
    examples=[
        "qwenctl sessions ls --limit 10",
        'qwenctl sessions ls --search "sky blue" --since 7d',
        "qwenctl sessions ls --model qwen3-30b --json | jq -r '.[].id'",
    ],
)
@click.option("--search", metavar="WORDS", default="", help="Only chats in which each of these words occurs.")
@click.option("--model", metavar="NAME", help="Only chats with a model that has this in its name.")
@click.option("--since", type=PointInTime(), metavar="TIME", help="Only chats that went on after this: a date, or 7d.")
@click.option("--until", type=PointInTime(), metavar="TIME", help="Only chats whose last turn was before this.")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="At most N, the latest.")
@output_options
def command(
    *,
    search: str,
    model: str | None,
    since: float | None,
    until: float | None,
    limit: int | None,
    output: Output,
    settings: Settings,
) -> None:
    """List the chats that are saved, the latest first.

    TIME is 2026-11-26, "2026-11-26 09:42", or how long ago: 90m, 12h, 7d, 2w.
    """
    query = SessionQuery(tuple(search.split()), model, since, until, limit)
    heads = open_store(settings).heads(query)
    print_sessions(heads, output)
    if not heads:
        output.note("no such chat is saved" if query != SessionQuery(limit=limit) else "no chat is saved yet")
