"""How long a prompt takes, from what its beginning took: each token costs, and so does each that it looks back on.

    seconds of tokens first … end-1  =  token_s · n  +  pair_s · n · (first + n/2)          n = end - first

The second term is attention: of a long prompt the last chunk can take many times what the first one took. Both numbers
are fitted to the chunks seen so far by least squares, later ones counting more. Pure: knows no clock and no engine.
"""

from __future__ import annotations

from typing import NamedTuple

_MEMORY = 0.9  # weight that a chunk keeps when another one comes: caches warm up, other programs start and end


class PrefillRates(NamedTuple):
    """What a token of a prompt costs."""

    token_s: float
    pair_s: float  # for each token before it

    def seconds(self, first: int, end: int) -> float:
        """Return how long the tokens `first` … `end - 1` take."""
        n_tokens = max(0, end - first)
        return self.token_s * n_tokens + self.pair_s * _pairs(first, n_tokens)


class PrefillSpeed:
    """Learns the rates from chunks."""

    def __init__(self) -> None:
        self._nn = self._np = self._pp = self._ns = self._ps = 0.0  # sums of products: n tokens, p pairs, s seconds

    def observe(self, first: int, n_tokens: int, seconds: float) -> None:
        """`n_tokens` from position `first` on took so long."""
        n, p = float(n_tokens), _pairs(first, n_tokens)
        if n <= 0 or seconds <= 0:
            return
        new = (n * n, n * p, p * p, n * seconds, p * seconds)
        old = (self._nn, self._np, self._pp, self._ns, self._ps)
        self._nn, self._np, self._pp, self._ns, self._ps = (
            _MEMORY * before + now for before, now in zip(old, new, strict=True)
        )

    @property
    def rates(self) -> PrefillRates | None:
        """The best fit without negative numbers; None before there is anything to fit."""
        if not self._nn:
            return None
        determinant = self._nn * self._pp - self._np * self._np
        if determinant > 1e-9 * self._nn * self._pp:  # else all chunks had the same share of pairs
            token_s = (self._ns * self._pp - self._ps * self._np) / determinant
            pair_s = (self._nn * self._ps - self._np * self._ns) / determinant
            if token_s >= 0 and pair_s >= 0:
                return PrefillRates(token_s, pair_s)
            if token_s < 0:
                return PrefillRates(0.0, self._ps / self._pp)
        return PrefillRates(self._ns / self._nn, 0.0)


def _pairs(first: int, n_tokens: int) -> float:
    return n_tokens * (first + n_tokens / 2)
