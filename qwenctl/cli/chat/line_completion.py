"""What Tab completes in the input line: slash commands, the files that some of them take, and @FILE in a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document


class LineCompleter(Completer):
    """Completes commands and names of files.

    Args:
        commands: each command's name → its argument as /help shows it; one that ends with FILE takes a file.
    """

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = commands
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Complete what stands before the cursor."""
        before = document.text_before_cursor
        name, blank, argument = before.partition(" ")
        if not before.startswith("/"):
            word = (before.split() or [""])[-1] if not before[-1:].isspace() else ""
            if word.startswith("@"):
                yield from self._files.get_completions(Document(word[1:]), complete_event)
            return
        if not blank:
            yield from (Completion(one, start_position=-len(name)) for one in self._commands if one.startswith(name))
        elif self._commands.get(name, "").endswith("FILE"):
            # The last word, but for /load and its like, whose only argument may hold blanks.
            path = argument if self._commands[name] == "FILE" else argument.rpartition(" ")[2]
            yield from self._files.get_completions(Document(path), complete_event)
