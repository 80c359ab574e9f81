"""Bytes of tokens to text that may be shown: whole UTF-8 characters, nothing of a stop string, nothing held too long.

Pure: knows no tokens and no engine. However the bytes are cut into pieces, the text that comes out is the same.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of one generation into text as they come.

    Bytes that can still become a character are waited for; those that cannot are U+FFFD, as in `bytes.decode("utf-8",
    "replace")`. Text that may yet turn out to be the start of a stop string is held back, no longer than that. Of
    several stop strings the one that is complete first ends the text; of those, the longest.

    Args:
        stop: strings that end the text; neither they nor anything after them comes out. Empty ones are ignored.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._longest_stop = max(map(len, self._stop), default=0)
        self._held = ""
        self.watches_stops = True  # settable at any time: False lets stop strings pass as text
        self.stopped_by: str | None = None  # the stop string that ended the text

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self.stopped_by is not None

    @property
    def splits_character(self) -> bool:
        """Whether what was fed ends within a character."""
        return bool(self._decoder.getstate()[0])

    def feed(self, piece: bytes) -> str:
        """Return the text that `piece` lets out; "" while it must be held back and after a stop string."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back: the generation is over."""
        text = self._take(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stop or not self.watches_stops:
            text, self._held = self._held + text, ""
            return text
        searched = len(self._held)
        text = self._held + text
        found = self._first_stop(text, searched)
        if found is not None:
            begin, self.stopped_by = found
            self._held = ""
            return text[:begin]
        n_held = self._n_possible_start(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def _first_stop(self, text: str, searched: int) -> tuple[int, str] | None:
        """Return where the stop string begins that ends first, and which it is; `searched` characters hold none."""
        best: tuple[int, int, str] | None = None  # (end, begin, stop string)
        for stop in self._stop:
            begin = text.find(stop, max(0, searched - len(stop) + 1))
            if begin >= 0:
                found = (begin + len(stop), begin, stop)
                best = found if best is None else min(best, found)
        return best[1:] if best else None

    def _n_possible_start(self, text: str) -> int:
        """Return the length of the longest end of `text` that a stop string begins with."""
        for length in range(min(self._longest_stop - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stop):
                return length
        return 0
