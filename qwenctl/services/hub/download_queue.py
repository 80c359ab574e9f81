"""What the threads of a download share: what is to be fetched, what waits to be made durable, and why to stop.

    files put runs ─→ workers take them, one credit a slice ─→ slices arrive ─→ the keeper records them, credits return

Credits bound what is fetched but not yet recorded, which is what a killed process fetches again. One lock for all of
it; each thing happens once a slice, a thousand times a second at most. Knows nothing of files and HTTP.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

File = TypeVar("File")


class DownloadQueue(Generic[File]):
    """Shared by all threads of one download. After `stop` or `fail`, nothing blocks any more.

    Args:
        n_credits: slices that may be on their way or not yet recorded.
    """

    def __init__(self, n_credits: int) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # a slice was recorded or arrived, or all ends
        self._has_work = threading.Condition(self._lock)
        self._has_credit = threading.Condition(self._lock)
        self._has_arrivals = threading.Condition(self._lock)
        self._runs: deque[tuple[File, range]] = deque()
        self._arrivals: list[tuple[File, int, int]] = []
        self._n_credits = n_credits
        self.n_fetched_bytes: Counter[File] = Counter()
        self.is_stopped = False
        self.error: BaseException | None = None

    def count(self, file: File, n_bytes: int) -> None:
        """Count bytes of a file that have come, whatever becomes of them."""
        with self._lock:
            self.n_fetched_bytes[file] += n_bytes

    def put(self, file: File, runs: list[range], *, first: bool = False) -> None:
        """Add runs of slices that are to be fetched; `first`: somebody waits for them already."""
        with self._lock:
            items = [(file, run) for run in runs]
            self._runs.extendleft(reversed(items)) if first else self._runs.extend(items)
            self._has_work.notify(len(items))

    def take(self) -> tuple[File, range] | None:
        """Wait for a run to fetch; None: there is nothing to be done any more."""
        with self._has_work:
            self._has_work.wait_for(lambda: self._runs or self.is_stopped)
            return None if self.is_stopped else self._runs.popleft()

    def take_credit(self) -> bool:
        """Wait until another slice may be begun; False: stop."""
        with self._has_credit:
            self._has_credit.wait_for(lambda: self._n_credits > 0 or self.is_stopped)
            self._n_credits -= 1
            return not self.is_stopped

    def arrived(self, file: File, number: int, crc32: int) -> None:
        """Hand a written slice over to the keeper."""
        with self._lock:
            self._arrivals.append((file, number, crc32))
            self._has_arrivals.notify()
            self._changed.notify_all()

    def take_arrivals(self) -> list[tuple[File, int, int]]:
        """Wait for slices to record; an empty list: stopped, and nothing is left."""
        with self._has_arrivals:
            self._has_arrivals.wait_for(lambda: self._arrivals or self.is_stopped)
            arrivals, self._arrivals = self._arrivals, []
            return arrivals

    def recorded(self, n_slices: int) -> None:
        """Give the credits of recorded slices back."""
        with self._lock:
            self._n_credits += n_slices
            self._has_credit.notify(n_slices)
            self._changed.notify_all()

    def wait_until(self, holds: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until a condition holds that slices change; False: stopped, or so many seconds are over."""
        with self._changed:
            self._changed.wait_for(lambda: holds() or self.is_stopped, seconds)
            return not self.is_stopped and holds()

    def fail(self, error: BaseException) -> None:
        """Stop because of an error; the first one is kept."""
        with self._lock:
            self.error = self.error or error
        self.stop()

    def stop(self) -> None:
        """Let every thread end."""
        with self._lock:
            self.is_stopped = True
            for condition in (self._changed, self._has_work, self._has_credit, self._has_arrivals):
                condition.notify_all()
