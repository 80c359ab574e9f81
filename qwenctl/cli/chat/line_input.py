r'''The input line of the terminal chat: editing, history, several lines, large pastes, completion, an editor.

Enter sends; Alt-Enter and Ctrl-J start a new line, as Enter does between """ and """; pasted line breaks stay.
'''

from __future__ import annotations

import select
from collections.abc import Collection, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.styles import Style

from qwenctl.cli.chat.folded_pastes import FoldedPastes
from qwenctl.cli.chat.line_completion import LineCompleter
from qwenctl.cli.chat.line_history import open_history
from qwenctl.cli.chat.screen import MeterLevel, join_block
from qwenctl.cli.theme import DARK, Theme

SHOW_REASONING_COMMAND = "/reasoning"
EDIT_COMMAND = "/edit"


class LineInput:
    """Reads turns from a terminal, and single keys while there is no input line.

    Args:
        commands: the slash commands, for completion: name → argument as /help shows it.
        history_file: what was typed before, and is kept for the next time; None keeps nothing.
    """

    def __init__(self, commands: Mapping[str, str], history_file: Path | None, theme: Theme = DARK) -> None:
        self._draft = ""  # what stood in the input line when a key asked for something else
        self._pastes = FoldedPastes()
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", "> ")],
            multiline=True,
            reserve_space_for_menu=4,
            prompt_continuation="  ",
            key_bindings=self._key_bindings(),
            history=open_history(history_file, self._pastes.unfold),
            completer=LineCompleter(commands),
            complete_while_typing=False,
            enable_suspend=True,  # Ctrl-Z
            tempfile_suffix=".md",
            color_depth=ColorDepth.DEPTH_4_BIT,
            style=_style(theme),
        )

    def read(self, status: str, level: MeterLevel = "fine") -> str | None:
        """Return the next turn, None for Ctrl-D.

        Raises:
            KeyboardInterrupt: Ctrl-C on an empty line; on one that is not empty it takes the text away.
        """
        while True:
            try:
                text = self._prompt(status, level)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if self._session.default_buffer.text:
                    continue
                raise
            turn = self._pastes.unfold(join_block([text]) or "")  # in this order: quotes in a paste are its own
            if turn.strip():
                return turn

    def pressed(self, wanted: Collection[Keys] = ()) -> list[str]:
        """Return which of the keys `wanted` were pressed by now; all others wait for the next input line."""
        keys = self._session.app.input.read_keys()
        store_typeahead(self._session.app.input, [one for one in keys if one.key not in wanted])
        return [one.key for one in keys if one.key in wanted]

    def keep_typed_lines(self) -> None:
        """Keep what was typed before keys were read as keys: the terminal has made line breaks of each Enter."""
        keys = self._session.app.input.read_keys()
        enter = KeyPress(Keys.ControlM, "\r")
        store_typeahead(self._session.app.input, [enter if one.key is Keys.ControlJ else one for one in keys])

    def read_key(self, wanted: Collection[str]) -> str | None:
        """Wait for one of the letters `wanted`, in capitals or not; None for Ctrl-D.

        Raises:
            KeyboardInterrupt: Ctrl-C, if nothing else takes it.
        """
        source = self._session.app.input
        while not source.closed:
            select.select([source.fileno()], [], [])
            for key in (one.key.lower() for one in source.read_keys()):
                if key in wanted:
                    return key
                if key in (Keys.ControlC, Keys.ControlD):
                    return None
        return None

    def _prompt(self, status: str, level: MeterLevel) -> str:
        self._session.app.erase_when_done = False
        draft, self._draft = self._draft, ""
        return self._session.prompt(bottom_toolbar=[(f"class:bottom-toolbar.text,{level}", status)], default=draft)

    def _key_bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        @bindings.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            command, _, rest = buffer.text.partition(" ")
            if command.strip() == EDIT_COMMAND:
                buffer.text = rest
                self._open_editor(buffer)
            elif join_block([buffer.text]) is None:
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @bindings.add("escape", "enter")
        @bindings.add("c-j")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add(Keys.BracketedPaste)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text(self._pastes.fold(event.data))

        @bindings.add("c-x", "c-e")
        @bindings.add("c-g")
        def _(event: KeyPressEvent) -> None:
            self._open_editor(event.current_buffer)

        @bindings.add("c-o")
        def _(event: KeyPressEvent) -> None:
            self._draft = event.current_buffer.text
            event.app.erase_when_done = True
            event.app.exit(result=SHOW_REASONING_COMMAND)

        return bindings

    def _open_editor(self, buffer: Buffer) -> None:
        """Edit the line in $VISUAL or $EDITOR; Enter sends what comes back."""
        buffer.text = self._pastes.unfold(buffer.text)
        buffer.open_in_editor()


def _style(theme: Theme) -> Style:
    return Style.from_dict(
        {
            "prompt": theme.prompt,
            "bottom-toolbar": "noreverse",
            "fine": "dim",
            "high": theme.high,
            "full": theme.full,
        }
    )
