"""Whether a text repeats itself without end, told from its last tokens. Pure: knows no model and no engine.

Small and strongly quantized models fall into two kinds of loop while they think: the same tokens again and again, and
the same sentences with a number or a word changed each time. Ordinary text has neither: of the runs of eight tokens in
a page of prose more than nine in ten occur once, and in a long table about half.

    period      the end of the text is one passage, written at least four times and over at least 200 tokens
    worn out    of the last 1,024 runs of eight tokens fewer than one in six differ from all others
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WINDOW_TOKENS = 4096  # more than these are never looked at

_RUN = 8  # tokens that are compared as one
_MIN_REPEATS = 4
_MIN_REPEATED_TOKENS = 200
_WORN_WINDOW = 1024
_WORN_SHARE = 1 / 6
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of a rolling hash: odd, its bits well mixed (Knuth's golden ratio)


def repeats_endlessly(tokens: Sequence[int]) -> bool:
    """Return whether the end of `tokens` is a loop that nothing but chance would end.

    Takes about a tenth of a millisecond for `WINDOW_TOKENS` tokens.
    """
    window = np.array(tokens[-WINDOW_TOKENS:], np.uint64)
    if len(window) < _MIN_REPEATED_TOKENS:
        return False
    runs = _hashed_runs(window)
    return _is_periodic(window, runs) or _is_worn_out(runs)


def _hashed_runs(window: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a number for each run of `_RUN` tokens, u64 (n - _RUN + 1,)."""
    n_runs = len(window) - _RUN + 1
    hashes = np.zeros(n_runs, np.uint64)
    for offset in range(_RUN):
        hashes = hashes * _FACTOR + window[offset : offset + n_runs] + np.uint64(1)
    return hashes


def _is_periodic(window: npt.NDArray[np.uint64], runs: npt.NDArray[np.uint64]) -> bool:
    """Whether the last run's distance to the one before it like it is a period of the whole end."""
    same = np.flatnonzero(runs[:-1] == runs[-1])
    if not len(same):
        return False
    period = len(runs) - 1 - int(same[-1])
    n_repeated = max(_MIN_REPEATED_TOKENS, _MIN_REPEATS * period)
    if n_repeated > len(window):
        return False
    end = window[-n_repeated:]
    return bool((end[period:] == end[:-period]).all())


def _is_worn_out(runs: npt.NDArray[np.uint64]) -> bool:
    last = runs[-_WORN_WINDOW:]
    return len(last) == _WORN_WINDOW and len(np.unique(last)) < _WORN_SHARE * _WORN_WINDOW
