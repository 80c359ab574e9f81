"""Whether reading experts ahead is worth it: measured on the tokens themselves, on and off in turns.

    probing   off on on off off on on off …   windows of tokens, in this order so that a drift of speed cancels out
    settled   the better of the two, for 512 tokens, then 1024, 2048 … while probes agree; another verdict starts at 512

Reading ahead has to win by a margin, and by more than the windows differ among themselves; otherwise it is off. It is
off at once, without waiting for a probe, when too few of the experts read ahead are used, and stays off while all are
resident. Pure: durations are passed in, nothing here reads a clock or a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

Mode = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class GateRules:
    """What the gate goes by.

    Attributes:
        window_tokens: tokens of a window.
        skipped_tokens: of these, at its start, not measured: they still feel the window before.
        n_pairs: windows with, and as many without, that a probe compares.
        first_interval_tokens: from a verdict to the next probe; doubled while verdicts agree.
        last_interval_tokens: the longest interval.
        gain: share of the time of a token that reading ahead has to save to be switched on.
        keep_gain: share that it has to save to stay on, in later probes.
        usefulness: share of the experts read ahead that have to be used.
        judged_prefetches: how many recent ones that share is taken of.
    """

    window_tokens: int = 16
    skipped_tokens: int = 2
    n_pairs: int = 4
    first_interval_tokens: int = 512
    last_interval_tokens: int = 16384
    gain: float = 0.02
    keep_gain: float = 0.005
    usefulness: float = 0.25
    judged_prefetches: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.skipped_tokens < self.window_tokens or self.n_pairs < 1:
            raise ValueError(f"{self}: windows without tokens")
        if not 1 <= self.first_interval_tokens <= self.last_interval_tokens or self.judged_prefetches < 1:
            raise ValueError(f"{self}: intervals that do not grow")


class PrefetchGate:
    """Asked before and told after every decode step of one token; other steps do not concern it.

    Args:
        mode: "on" and "off" leave nothing to measure.
        resident: every expert is in memory.
        rules: the constants.
    """

    def __init__(self, mode: Mode = "auto", *, resident: bool = False, rules: GateRules | None = None) -> None:
        self._mode, self._resident, self._rules = mode, resident, rules or GateRules()
        self.n_prefetched = 0
        self.n_used = 0
        self.gain = 0.0  # by the last probe
        self._recent_prefetched = self._recent_used = 0.0
        self._is_on = False
        self._why = ""
        self._interval = self._rules.first_interval_tokens
        self._n_verdicts = 0
        self._left = 0  # tokens of the settled stretch, 0: probing
        self._begin_probe()

    def set_resident(self, resident: bool) -> None:
        """Say whether every expert is in memory now: then nothing is left to read ahead."""
        if self._resident and not resident:
            self._interval = self._rules.first_interval_tokens
            self._begin_probe()
        self._resident = resident

    def begin_token(self) -> bool:
        """Return whether to read ahead during the token that is computed next."""
        if self._mode != "auto" or self._resident:
            return self._mode == "on" and not self._resident
        return self._is_on if self._left else self._window_is_on()

    def end_token(self, seconds: float, n_prefetched: int, n_used: int) -> None:
        """Note a token.

        Args:
            seconds: it took, 0 or more.
            n_prefetched: experts that were read ahead during it.
            n_used: of these, those that it used.
        """
        self.n_prefetched += n_prefetched
        self.n_used += n_used
        if self._mode != "auto" or self._resident:
            return
        self._note_usefulness(n_prefetched, n_used)
        if self._left:
            self._left -= 1
            if self._is_on and self._is_useless():
                self._settle(False, self._useless())
            elif not self._left:
                self._begin_probe()
            return
        self._probe(seconds, n_prefetched)

    @property
    def usefulness(self) -> float:
        """Share of the recent experts read ahead that were used; 1 before there were any."""
        return self._recent_used / self._recent_prefetched if self._recent_prefetched else 1.0

    @property
    def state(self) -> str:
        """What is done and why, for people."""
        if self._mode != "auto":
            return f"{self._mode} by request"
        if self._resident:
            return "off: every expert is resident"
        if not self._left:
            return f"probing: window {len(self._windows) + 1} of {2 * self._rules.n_pairs}"
        return f"{'on' if self._is_on else 'off'}: {self._why}"

    def _begin_probe(self) -> None:
        self._left = 0
        self._windows: list[float] = []
        self._seconds: list[float] = []
        self._n_in_window = self._n_probed = 0
        self._recent_prefetched = self._recent_used = 0.0

    def _window_is_on(self) -> bool:
        return len(self._windows) % 4 in (1, 2)

    def _probe(self, seconds: float, n_prefetched: int) -> None:
        rules = self._rules
        self._n_in_window += 1
        self._n_probed += n_prefetched
        if self._n_in_window > rules.skipped_tokens:
            self._seconds.append(seconds)
        if self._is_useless():
            self._settle(False, self._useless())
        elif self._n_in_window == rules.window_tokens:
            self._windows.append(_typical(self._seconds))
            self._seconds, self._n_in_window = [], 0
            if len(self._windows) == 2 * rules.n_pairs:
                self._judge()

    def _judge(self) -> None:
        """Compare windows with their neighbours of the other kind: off-on, on-off, off-on, …"""
        gains: list[float] = []
        for first, second in zip(self._windows[::2], self._windows[1::2], strict=True):
            off, on = (first, second) if len(gains) % 2 == 0 else (second, first)
            gains.append((off - on) / off if off > 0 else 0.0)
        self.gain = median(gains)
        noise = _error_of_median(gains)
        needed = max(self._rules.keep_gain if self._is_on else self._rules.gain, noise)
        shown = f"tokens take {abs(self.gain):.1%} {'less' if self.gain >= 0 else 'more'} time with it"
        if not self._n_probed:
            self._settle(False, "nothing was left to read ahead")
        else:
            self._settle(self.gain > needed, f"{shown}, ±{noise:.1%}")

    def _settle(self, is_on: bool, why: str) -> None:
        rules = self._rules
        agrees = self._n_verdicts > 0 and is_on == self._is_on
        self._interval = min(2 * self._interval, rules.last_interval_tokens) if agrees else rules.first_interval_tokens
        self._n_verdicts += 1
        self._is_on, self._why, self._left = is_on, why, self._interval

    def _note_usefulness(self, n_prefetched: int, n_used: int) -> None:
        """Keep the sums over about the last `judged_prefetches`: older ones fade away."""
        self._recent_prefetched += n_prefetched
        self._recent_used += n_used
        most = 2 * self._rules.judged_prefetches
        if self._recent_prefetched > most:
            fade = most / self._recent_prefetched
            self._recent_prefetched *= fade
            self._recent_used *= fade

    def _is_useless(self) -> bool:
        enough = self._recent_prefetched >= self._rules.judged_prefetches
        return enough and self.usefulness < self._rules.usefulness

    def _useless(self) -> str:
        return f"{self.usefulness:.0%} of the experts read ahead were used"


def _typical(seconds: list[float]) -> float:
    """Return the mean of the middle three quarters.

    Not the median: where two tokens of five wait for the disk, that is the time of one that does not, whatever the
    others gain. Not the mean: one token that another program held up would decide.
    """
    cut = round(len(seconds) / 8)
    kept = sorted(seconds)[cut : len(seconds) - cut]
    return sum(kept) / len(kept)


def _error_of_median(values: list[float]) -> float:
    """Return the standard error of a median, from the deviations from it: 1.25 σ / √n, σ = 1.48 MAD."""
    middle = median(values)
    deviation = 1.4826 * median(abs(value - middle) for value in values)
    return float(1.2533 * deviation / len(values) ** 0.5)
