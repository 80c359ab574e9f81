"""Whether a text repeats itself without end, told from its last tokens. Pure: knows no model and no engine.

Small and strongly quantized models fall into two kinds of loop while they think: the same tokens again and again, and
the same sentences with a number or a word changed each time.

    the same        the end of the text is one passage, written at least four times and over at least 200 tokens
    nearly so       the same, at least eight times and over at least 600 tokens, but for one token in twelve

Of the second kind are also the most monotonous of programs; a passage that is as long each time is what tells a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WINDOW_TOKENS = 4096  # more than these are never looked at

_RUN = 8  # tokens that are compared as one
# (repeats, tokens repeated, share of tokens that are as they were a passage before)
_LOOPS = ((4, 200, 1.0), (8, 600, 11 / 12))
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of a rolling hash: odd, its bits well mixed (Knuth's golden ratio)


def repeats_endlessly(tokens: Sequence[int]) -> bool:
    """Return whether the end of `tokens` is a loop that nothing but chance would end.

    Takes about a tenth of a millisecond for `WINDOW_TOKENS` tokens.
    """
    window = np.array(tokens[-WINDOW_TOKENS:], np.uint64)
    if len(window) <= _RUN:
        return False
    period = _period(_hashed_runs(window))
    return period is not None and any(_has_period(window, period, *loop) for loop in _LOOPS)


def _hashed_runs(window: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a number for each run of `_RUN` tokens, u64 (n - _RUN + 1,)."""
    n_runs = len(window) - _RUN + 1
    hashes = np.zeros(n_runs, np.uint64)
    for offset in range(_RUN):
        hashes = hashes * _FACTOR + window[offset : offset + n_runs] + np.uint64(1)
    return hashes


def _period(runs: npt.NDArray[np.uint64]) -> int | None:
    """Return the distance of one of the last runs to the one before that is like it; None: none has its like."""
    for last in range(len(runs) - 1, max(0, len(runs) - 1 - 3 * _RUN), -_RUN):  # of which one holds no changed token
        same = np.flatnonzero(runs[:last] == runs[last])
        if len(same):
            return last - int(same[-1])
    return None


def _has_period(window: npt.NDArray[np.uint64], period: int, n_repeats: int, n_tokens: int, share: float) -> bool:
    n_repeated = max(n_tokens, n_repeats * period)
    if n_repeated > len(window):
        return False
    end = window[-n_repeated:]
    return bool((end[period:] == end[:-period]).mean() >= share)
