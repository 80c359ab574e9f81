r'''The input line of the terminal chat: editing, history, several lines, completion of commands.

Enter sends; Alt-Enter and Ctrl-J start a new line, as Enter does between """ and """; pasted line breaks stay.
'''

from __future__ import annotations

import select
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.styles import Style

from qwenctl.cli.chat.screen import join_block

SHOW_REASONING_COMMAND = "/reasoning"
_STYLE = Style.from_dict({"prompt": "ansigreen bold", "bottom-toolbar": "noreverse dim"})


class LineInput:
    """Reads turns from a terminal.

    Args:
        commands: names of the slash commands, for completion.
        history_file: what was typed before, and is kept for the next time; None keeps nothing.
    """

    def __init__(self, commands: Sequence[str], history_file: Path | None) -> None:
        self._draft = ""  # what stood in the input line when a key asked for something else
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", "> ")],
            multiline=True,
            reserve_space_for_menu=4,
            prompt_continuation="  ",
            key_bindings=self._key_bindings(),
            history=open_history(history_file),
            completer=_CommandCompleter(commands),
            complete_while_typing=False,
            enable_open_in_editor=True,  # Ctrl-X Ctrl-E
            enable_suspend=True,  # Ctrl-Z
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
                text = self._prompt(status)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if self._session.default_buffer.text:
                    continue
                raise
            turn = join_block([text])
            if turn is not None and turn.strip():
                return turn

    def pressed(self, wanted: Collection[Keys] = ()) -> list[str]:
        """Return which of the keys `wanted` were pressed by now; all others wait for the next input line."""
        keys = self._session.app.input.read_keys()
        store_typeahead(self._session.app.input, [one for one in keys if one.key not in wanted])
        return [one.key for one in keys if one.key in wanted]

    def read_key(self, wanted: Collection[str]) -> str | None:
        """Wait for one of the letters `wanted`, in capitals or not; None for Ctrl-C and Ctrl-D."""
        source = self._session.app.input
        try:
            while not source.closed:
                select.select([source.fileno()], [], [])
                for key in (one.key.lower() for one in source.read_keys()):
                    if key in wanted:
                        return key
                    if key in (Keys.ControlC, Keys.ControlD):
                        return None
        except KeyboardInterrupt:
            pass
        return None

    def _prompt(self, status: str) -> str:
        self._session.app.erase_when_done = False
        draft, self._draft = self._draft, ""
        return self._session.prompt(bottom_toolbar=[("class:bottom-toolbar.text", status)], default=draft)

    def _key_bindings(self) -> KeyBindings:
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

        @bindings.add("c-o")
        def _(event: KeyPressEvent) -> None:
            self._draft = event.current_buffer.text
            event.app.erase_when_done = True
            event.app.exit(result=SHOW_REASONING_COMMAND)

        return bindings


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
