"""What a model thinks, while it thinks: a line that says how far it is and the last few lines, or all of it.

Afterwards one line stands for it. Knows the terminal; nothing of keys and models.
"""

from __future__ import annotations

from collections.abc import Callable

from qwenctl.cli.chat.screen import thought_line
from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.output import cell_width
from qwenctl.cli.terminal_safety import without_controls
from qwenctl.units import format_seconds

_N_LINES = 3


class ThinkingView:
    """The thoughts of one reply.

    Args:
        region: where they are shown.
        dim: turns text into styled lines that fit the terminal.
        columns: returns the width of the terminal.
        clock: returns seconds.
    """

    def __init__(
        self,
        region: LiveRegion,
        dim: Callable[[str], list[str]],
        columns: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._region, self._dim, self._columns, self._clock = region, dim, columns, clock
        self._started_s = clock()
        self._text = ""
        self._n_tokens = 0
        self._n_committed = 0  # characters of the text that are on the screen for good
        self._whole = False

    @property
    def whole_text_shown(self) -> bool:
        """Whether all of the thoughts is on the screen, so that nothing need be shown again."""
        return self._whole

    def feed(self, text: str, n_tokens: int) -> None:
        """Take more thoughts, and the tokens generated so far."""
        self._text += without_controls(text)
        self._n_tokens = n_tokens
        self.show()

    def toggle(self) -> None:
        """Show all of it instead of the last lines, or the other way round."""
        self._whole = not self._whole
        self.show()

    def show(self) -> None:
        """Draw it, with the seconds that have passed."""
        if not self._whole:
            tail = self._dim(self._text[self._tail_start() :].strip())[-_N_LINES:]
            self._region.show([*self._status(), *tail])
            return
        end = self._text.rfind("\n") + 1
        if end > self._n_committed:
            self._region.commit(self._dim(self._text[self._n_committed : end].rstrip("\n")) or [""])
            self._n_committed = end
        self._region.show([*self._dim(self._text[self._n_committed :]), *self._status()])

    def fold(self) -> None:
        """Replace it by its one line, where it was not shown whole."""
        line = thought_line(self._clock() - self._started_s, self._n_tokens)
        rest = self._dim(self._text[self._n_committed :].rstrip()) if self._whole else []
        hint = "" if self._whole else " · Ctrl-O shows it"
        self._region.commit([*rest, *self._dim(self._fitting(line, hint)), ""])

    def _tail_start(self) -> int:
        """Return where to begin with wrapping the last lines: this is done for every token, so not far back.

        It moves on by whole windows, and is else the same from token to token: lines keep their breaks.
        """
        window = _N_LINES * self._columns()
        return max(self._n_committed, (len(self._text) // window - 1) * window)

    def _status(self) -> list[str]:
        seconds = format_seconds(self._clock() - self._started_s)
        line = f"▾ thinking… {self._n_tokens} tokens, {seconds}"
        show = " · Ctrl-O folds it" if self._whole else " · Ctrl-O shows all"
        return self._dim(self._fitting(line, " · Ctrl-A answers now", show))

    def _fitting(self, line: str, *hints: str) -> str:
        """Return `line` with as many of `hints` as it has room for."""
        for hint in hints:
            if cell_width(line + hint) < self._columns():
                line += hint
        return line
