"""What a download says of itself while it runs, and how its rate is smoothed. Values only."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class FileProgress:
    """One file. `n_done_bytes` counts what an earlier run left, until it turns out to be damaged."""

    path: str
    n_bytes: int
    n_done_bytes: int
    is_complete: bool  # under its final name


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """All files of a download."""

    files: tuple[FileProgress, ...]
    n_fetched_bytes: int  # by this run, repeated ones included
    bytes_per_s: float  # over the last seconds

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)

    @property
    def n_done_bytes(self) -> int:
        """Bytes of all files that are here."""
        return sum(file.n_done_bytes for file in self.files)


class RateMeter:
    """Bytes per second over the last few seconds, from totals given about ten times a second."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def update(self, now_s: float, total_bytes: int) -> float:
        """Take the total at a time, and return the rate."""
        self._points.append((now_s, total_bytes))
        while len(self._points) > 2 and now_s - self._points[0][0] > _WINDOW_S:
            self._points.popleft()
        seconds = now_s - self._points[0][0]
        return (total_bytes - self._points[0][1]) / seconds if seconds > 0 else 0.0
