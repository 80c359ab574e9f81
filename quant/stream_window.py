"""The stretch of a source that is on its way: fetched ahead on several threads, hashed in order, read, let go.

    durable        hashed              fetched          being fetched           not yet asked for
    ───────────────┼───────────────────┼────────────────┼───────────────────────┼──────────────
                   └────────────── at most `window_bytes` ──────────────────────┘

What lies before is encoded and on the disk, so a kill costs no more than the window, and memory holds no more. A span
is given to workers once it is hashed, the last one of a file once the file's hash is the publisher's. Knows nothing of
the network, nor of what a span holds.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from quant.journal import ReadMark
from quant.stream_hash import SpanHasher, StreamedFiles
from quant.stream_spans import Span

_STOP_S = 0.5  # that a read which hangs in the network is waited for


@dataclass(slots=True)
class _Held:
    """A span in memory."""

    data: memoryview
    n_unread: int  # reads that lie in it
    is_fetched: bool = False


class StreamWindow:
    """Reads spans once, in order. It is what the workers' `TensorReader` reads from.

    Args:
        spans: what is left to read.
        files: where from.
        hasher: of these files.
        window_bytes: how much may be asked for but not yet durable.
        n_connections: spans that are fetched at once.
    """

    def __init__(
        self, spans: Sequence[Span], files: StreamedFiles, hasher: SpanHasher, window_bytes: int, n_connections: int
    ) -> None:
        self._spans = spans
        self._files = files
        self._hasher = hasher
        self._window_bytes = window_bytes
        self._starts = [0, *accumulate(span.n_bytes for span in spans)]  # bytes of all spans before each
        self._places = [(span.path, span.first_byte) for span in spans]
        self._changed = threading.Condition()
        self._held: dict[int, _Held] = {}
        self._marks: dict[int, ReadMark | None] = {}  # at the ends of spans that are hashed, not yet durable
        self._n_asked = self._n_durable = 0  # spans
        self.n_hashed = 0  # spans
        self.n_bytes_fetched = 0
        self._stopped = False
        self._error: BaseException | None = None
        steps = [self._hash_next, *[self._fetch_next] * n_connections]
        # Daemons: a read that hangs in the network must not keep the program from ending.
        self._threads = [threading.Thread(target=self._run, args=(step,), daemon=True) for step in steps]

    def start(self) -> None:
        """Begin to fetch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Fetch no more; a reader that waits gets an error."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:  # started
                thread.join(_STOP_S / len(self._threads))

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is hashed or something failed, at most `timeout_s`; return whether it is all hashed.

        Raises:
            Exception: what a thread has met.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_complete or self._error is not None, timeout_s)
        self.raise_error()
        return self._is_complete

    def raise_error(self) -> None:
        """Raise what a thread has met, if one did."""
        if self._error is not None:
            raise self._error

    def bytes_before(self, n_spans: int) -> int:
        """Return the length of the first `n_spans` spans."""
        return self._starts[n_spans]

    def open(self) -> StreamWindow:
        """Return the window itself, for a `TensorReader`."""
        return self

    def close(self) -> None:
        """Nothing: whoever started the window stops it."""

    def read_into(self, path: Path, offset_bytes: int, out: memoryview) -> int:
        """Fill `out` with bytes that lie in one span, once they are there. To be called once for each of its reads.

        Raises:
            Exception: what went wrong with fetching or hashing.
        """
        index = bisect_right(self._places, (path, offset_bytes)) - 1
        with self._changed:
            self._changed.wait_for(lambda: self.n_hashed > index or self._is_ended)
            self.raise_error()
            if self._stopped:
                raise RuntimeError("the stream was stopped")
            held = self._held[index]
        first = offset_bytes - self._spans[index].first_byte
        out[:] = held.data[first : first + len(out)]
        with self._changed:
            held.n_unread -= 1
            self._let_go(index)
        return len(out)

    def marks_until(self, n_spans: int) -> dict[str, ReadMark]:
        """Return how far each file is read, by name, where the first `n_spans` spans are. All of them are hashed."""
        with self._changed:
            return {
                self._spans[index].path.name: mark
                for index in range(self._n_durable, n_spans)
                if (mark := self._marks[index]) is not None
            }

    def move_on(self, n_spans: int) -> None:
        """Say that all units of the first `n_spans` spans are on the disk and recorded."""
        with self._changed:
            for index in range(self._n_durable, n_spans):
                del self._marks[index]
            self._n_durable = n_spans
            self._changed.notify_all()

    @property
    def _is_complete(self) -> bool:
        return self.n_hashed == len(self._spans)

    @property
    def _is_ended(self) -> bool:
        return self._stopped or self._error is not None

    def _let_go(self, index: int) -> None:
        if self._held[index].n_unread == 0 and index < self.n_hashed:
            del self._held[index]

    def _run(self, step: Callable[[], bool]) -> None:
        try:
            while step():
                pass
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _fetch_next(self) -> bool:
        """Fetch one span; False when there is none left."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ended or self._n_asked == len(self._spans) or self._has_room)
            if self._is_ended or self._n_asked == len(self._spans):
                return False
            index, self._n_asked = self._n_asked, self._n_asked + 1
            span = self._spans[index]
            held = self._held[index] = _Held(np.empty(span.n_bytes, np.uint8).data, len(span.units))
        self._files.fetch(span.path, span.first_byte, held.data)
        with self._changed:
            held.is_fetched = True
            self.n_bytes_fetched += span.n_bytes
            self._changed.notify_all()
        return True

    @property
    def _has_room(self) -> bool:
        """The first span always has, however long it is."""
        n_bytes = self._starts[self._n_asked + 1] - self._starts[self._n_durable]
        return n_bytes <= self._window_bytes or self._n_asked == self._n_durable

    def _hash_next(self) -> bool:
        """Hash one span; False when there is none left."""
        index = self.n_hashed
        with self._changed:
            self._changed.wait_for(lambda: self._is_ended or self._is_complete or self._is_fetched(index))
            if self._is_ended or self._is_complete:
                return False
            data = self._held[index].data
        mark = self._hasher.hash(self._spans[index], data)
        with self._changed:
            self._marks[index] = mark
            self.n_hashed += 1
            self._let_go(index)
            self._changed.notify_all()
        return True

    def _is_fetched(self, index: int) -> bool:
        return index in self._held and self._held[index].is_fetched
