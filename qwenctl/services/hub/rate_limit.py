"""A limit on bytes per second that all connections share. Knows nothing of what the bytes are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimit:
    """Makes whoever has received bytes wait until they are within the limit. TCP slows the sender down in turn.

    Args:
        bytes_per_s: the limit.
        clock, sleep: seconds.
    """

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if bytes_per_s <= 0:
            raise ValueError(f"a limit of {bytes_per_s} bytes per second lets nothing through")
        self.bytes_per_s = bytes_per_s
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._paid_until_s = clock()

    @property
    def piece_bytes(self) -> int:
        """Return how much to read at once, so that many connections under a low limit are not silent for long."""
        return max(1 << 10, int(self.bytes_per_s / 8))

    def take(self, n_bytes: int) -> None:
        """Count bytes that have arrived, and wait as long as they should have taken. Idle time is not saved up."""
        with self._lock:
            now_s = self._clock()
            self._paid_until_s = max(self._paid_until_s, now_s) + n_bytes / self.bytes_per_s
            wait_s = self._paid_until_s - now_s
        if wait_s > 0:
            self._sleep(wait_s)
