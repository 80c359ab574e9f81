"""`qwenctl sessions export`: a saved chat for other programs and for people."""

from __future__ import annotations

from collections.abc import Callable

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import quiet_option
from qwenctl.cli.output import Output
from qwenctl.services.private_file import create_private
from qwenctl.services.session_choice import find_session, open_store
from qwenctl.services.session_export import as_json, as_markdown, as_openai
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings
from qwenctl.units import counted

_FORMATS: dict[str, Callable[..., str]] = {"markdown": as_markdown, "json": as_json, "openai": as_openai}


@click.command(
    "export",
    cls=Command,
    examples=[
        "qwenctl sessions export 3fa2c1d0 > talk.md",
        'qwenctl sessions export "sky blue" --format openai | jq ".[0]"',
        "qwenctl sessions export 3fa2c1d0 --format json -o talk.json  # /load in a chat reads it",
    ],
)
@click.argument("session", metavar="ID|WORDS")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_FORMATS)),
    default="markdown",
    show_default=True,
    help="Markdown; JSON as /save writes it; or a list of messages as OpenAI's API takes them.",
)
@click.option("--reasoning", is_flag=True, help="With what the model thought; JSON always has it.")
@click.option(
    "-o", "--output-file", "target", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to a new FILE."
)
@quiet_option
def command(
    *, session: str, kind: str, reasoning: bool, target: str | None, output: Output, settings: Settings
) -> None:
    """Write a saved chat in a form that others read.

    ID may be shortened to its first four digits. WORDS mean the latest chat in which they occur.
    """
    store = open_store(settings)
    found = store.read(find_session(store, session).head.session_id)
    text = _FORMATS[kind](found, reasoning=reasoning)
    if target is None:
        output.stream(text)
        return
    create_private(typed_path(target), text)
    output.note(f"{counted(found.head.n_exchanges, 'exchange')} written to {target}")
