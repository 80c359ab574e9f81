"""The next lines of a batch, those with the same beginning together: what was computed of one serves the others.

A KV cache keeps the beginnings of as many prompts as it has sequences. Lines that have more system prompts than that,
one after the other, would push each other's out: 120 lines with 20 system prompts take a sixth of the time when they
are grouped. Groups stand in the order of their first lines, so lines that have nothing in common stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.batch_job import BatchJob

_FIRST_LINES, _MOST_LINES, _MOST_BYTES = 32, 512, 4 << 20  # of a window; the first is soon read
_TOGETHER = 16  # lines that are told of at once
_SAME_CHARS = 200  # of the last message: enough to tell a document from another


class LineWindow:
    """Takes lines from an iterator and gives them out grouped.

    Args:
        lines: in the input's order.
        on_soon: is told of lines that come next, a few at a time.
    """

    def __init__(self, lines: Iterator[BatchJob], on_soon: Callable[[Sequence[BatchJob]], None]) -> None:
        self._lines, self._on_soon = lines, on_soon
        self._window: deque[BatchJob] = deque()
        self._n_most = _FIRST_LINES
        self._n_told = 0  # of the first in the window
        self._is_over = False

    def __len__(self) -> int:
        """Lines that were read and not given out."""
        return len(self._window)

    @property
    def is_over(self) -> bool:
        """Whether there are no more."""
        return self._is_over and not self._window

    def take(self, *, may_read: bool) -> BatchJob | None:
        """Return the next line; None when there is none, or it would have to be read and may not be."""
        if not self._window and may_read and not self._is_over:
            self._window.extend(grouped(self._read()))
        if not self._window:
            return None
        if not self._n_told:
            soon = [self._window[index] for index in range(min(_TOGETHER, len(self._window)))]
            self._on_soon(soon)
            self._n_told = len(soon)
        self._n_told -= 1
        return self._window.popleft()

    def _read(self) -> list[BatchJob]:
        jobs: list[BatchJob] = []
        n_bytes = 0
        while len(jobs) < self._n_most and n_bytes < _MOST_BYTES:
            job = next(self._lines, None)
            if job is None:
                self._is_over = True
                break
            jobs.append(job)
            n_bytes += job.n_line_bytes
        self._n_most = min(_MOST_LINES, 4 * self._n_most)
        return jobs


def grouped(jobs: Iterable[BatchJob]) -> list[BatchJob]:
    """Return the lines with those together that begin in the same way; otherwise in their order."""
    groups: dict[bytes, dict[bytes, list[BatchJob]]] = {}
    for job in jobs:
        before, last = _beginning(job)
        groups.setdefault(before, {}).setdefault(last, []).append(job)
    return [job for group in groups.values() for same in group.values() for job in same]


def _beginning(job: BatchJob) -> tuple[bytes, bytes]:
    """Digests of all that stands before the last message, and of how that begins."""
    body = job.request.parsed
    if not isinstance(body, ChatBody):
        return _digest(job.request.url), _digest(json.dumps(job.request.body)[:_SAME_CHARS])
    *before, last = body.messages
    head = [(message.role, message.content) for message in before]
    return _digest(json.dumps([body.offered_tools, head])), _digest(last.content[:_SAME_CHARS])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
