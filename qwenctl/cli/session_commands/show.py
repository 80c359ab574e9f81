"""`qwenctl sessions show`: what was said in a saved chat."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.session_list import session_document
from qwenctl.services.conversation_record import conversation_record
from qwenctl.services.session_choice import find_session, open_store
from qwenctl.services.session_export import as_markdown
from qwenctl.settings import Settings


@click.command(
    "show",
    cls=Command,
    examples=["qwenctl sessions show 3fa2c1d0", 'qwenctl sessions show "sky blue" --reasoning | less'],
)
@click.argument("session", metavar="ID|WORDS")
@click.option("--reasoning", is_flag=True, help="With what the model thought before it answered.")
@output_options
def command(*, session: str, reasoning: bool, output: Output, settings: Settings) -> None:
    """Say what was said in a saved chat.

    ID may be shortened to its first four digits. WORDS mean the latest chat in which they occur.
    """
    store = open_store(settings)
    found = store.read(find_session(store, session).head.session_id)
    if output.json_mode:
        output.data(session_document(found.head) | conversation_record(found.conversation))
    else:
        output.stream(as_markdown(found, reasoning=reasoning))
