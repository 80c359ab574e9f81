"""How far the reading of a prompt is, and how long it will still take: one line, for a chat's status and for `run`.

Learns from the events of one reply. Knows no screen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from qwenctl.core import PromptProgress
from qwenctl.services.prefill_speed import PrefillSpeed
from qwenctl.units import format_seconds

_SECONDS_ALONE_S = 60  # shorter times are told in seconds without their tenths


class PromptClock:
    """The prompt of one reply, from the moment that it is waited for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._speed = PrefillSpeed()
        self._last: PromptProgress | None = None
        self._last_s = clock()

    def take(self, progress: PromptProgress) -> None:
        """More of it has been computed."""
        now_s = self._clock()
        first = self._last.n_done_tokens if self._last else progress.n_cached_tokens
        if self._last or not progress.n_cached_tokens:  # else part of the time went into reading from the disk
            self._speed.observe(first, progress.n_done_tokens - first, now_s - self._last_s)
        self._last, self._last_s = progress, now_s

    @property
    def line(self) -> str:
        """What there is to say now; share and time left go on between two events, as far as can be known."""
        if self._last is None:
            return "reading the prompt…"
        n_done, n_total, rates = self._last.n_done_tokens, self._last.n_total_tokens, self._speed.rates
        if rates is None or n_done >= n_total:
            return f"reading the prompt {n_done / n_total:.0%}"
        passed_s = self._clock() - self._last_s
        n_more = passed_s / max(1e-9, rates.token_s + rates.pair_s * n_done)
        share = min(0.99, (n_done + n_more) / n_total)
        left_s = round(rates.seconds(n_done, n_total) - passed_s)
        left = f"{left_s} s" if left_s < _SECONDS_ALONE_S else format_seconds(left_s)
        return f"reading the prompt {share:.0%}" + (f" · {left} left" if left_s > 0 else "")
