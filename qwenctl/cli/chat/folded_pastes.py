"""Large pastes: one short mark stands for each in the input line, and becomes the text again when the line is sent."""

from __future__ import annotations

from qwenctl.units import counted

_MOST_LINES, _MOST_CHARACTERS = 8, 1000  # that are shown as they are


class FoldedPastes:
    """The pastes of one chat. A mark that the user changes is a mark no more."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, pasted: str) -> str:
        """Return what the input line shall show for `pasted`."""
        text = pasted.replace("\r\n", "\n").replace("\r", "\n")
        n_lines = text.count("\n") + (not text.endswith("\n"))
        if n_lines <= _MOST_LINES and len(text) <= _MOST_CHARACTERS:
            return text
        mark = f"[paste {len(self._texts) + 1}: {counted(n_lines, 'line')}, {len(text)} characters]"
        self._texts[mark] = text
        return mark

    def unfold(self, line: str) -> str:
        """Return `line` with the pastes in the place of their marks."""
        for mark, text in self._texts.items():
            line = line.replace(mark, text)
        return line
