r'''The input line of the terminal chat: editing, history, several lines, completion of commands.

Enter sends; Alt-Enter and Ctrl-J start a new line, as Enter does between """ and """; pasted line breaks stay.
'''

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.styles import Style

from qwenctl.cli.chat.screen import join_block

_STYLE = Style.from_dict({"prompt": "ansigreen bold", "bottom-toolbar": "noreverse dim"})


class LineInput:
    """Reads turns from a terminal.

    Args:
        commands: names of the slash commands, for completion.
        history_file: what was typed before, and is kept for the next time; None keeps nothing.
    """

    def __init__(self, commands: Sequence[str], history_file: Path | None) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", "> ")],
            multiline=True,
            reserve_space_for_menu=4,
            prompt_continuation="  ",
            key_bindings=_key_bindings(),
            history=open_history(history_file),
            completer=_CommandCompleter(commands),
            complete_while_typing=False,
            enable_open_in_editor=True,  # Ctrl-X Ctrl-E
            color_depth=ColorDepth.DEPTH_4_BIT,
            style=_STYLE,
        )

    def read(self, status: str) -> str | None:
        """Return the next turn, None for Ctrl-D.

        Raises:
            KeyboardInterrupt: Ctrl-C on an empty line; on one that is not empty it takes the text away.
        """
        while True:
            try:
                text = self._session.prompt(bottom_toolbar=[("class:bottom-toolbar.text", status)])
            except EOFError:
                return None
            except KeyboardInterrupt:
                if self._session.default_buffer.text:
                    continue
                raise
            turn = join_block([text])
            if turn is not None and turn.strip():
                return turn


class _CommandCompleter(Completer):
    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        """Complete the word that a turn starts with, if it starts with a slash."""
        before = document.text_before_cursor
        if before.startswith("/") and not any(char.isspace() for char in before):
            for name in self._commands:
                if name.startswith(before):
                    yield Completion(name, start_position=-len(before))


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if join_block([buffer.text]) is None:
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def open_history(path: Path | None) -> History:
    """Return the history kept in `path`, readable by its owner only; one in memory if that cannot be written."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            return FileHistory(str(path))
    except OSError:
        return InMemoryHistory()
