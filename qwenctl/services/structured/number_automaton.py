"""Numbers within bounds, digit by digit, as automata over their text. Pure.

    integers   -?(0|[1-9][0-9]*)                 multiples of whole numbers by remainders
    decimals   -?(0|[1-9][0-9]*)(\\.[0-9]+)?      no exponents: bounds are compared from left to right

A state knows, for the lower and the upper bound of the magnitude, whether the digits so far are below, at or above its
digits. Digits are limited in number, so that a model cannot go on for ever and a double holds what it wrote.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, TypeVar

from qwenctl.services.structured.automaton import Automaton, Budget, Ranges, explore

_INTEGER_DIGITS = 18  # what an int64 holds
_DECIMAL_DIGITS = 15  # what a double holds

_Side = Literal[-1, 0, 1]  # of the digits read, against the bound's
_Sortable = TypeVar("_Sortable", int, str)


@dataclass(frozen=True, slots=True)
class NumberBounds:
    """The limits of a number; None: no limit.

    Raises:
        ValueError: a multiple that is not positive.
    """

    low: Decimal | None = None
    high: Decimal | None = None
    low_excluded: bool = False
    high_excluded: bool = False
    integer: bool = False
    multiple_of: int = 1  # of integers
    n_decimals: int | None = None  # of decimals at most; None: as many as a double holds

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, not {self.multiple_of}")


@dataclass(frozen=True, slots=True)
class _Bound:
    """A magnitude as digits: `whole` without leading zeros ("0" for zero), `decimals` without trailing ones."""

    whole: str
    decimals: str
    excluded: bool


@dataclass(frozen=True, slots=True)
class _Interval:
    """What the digits of one sign may say."""

    low: _Bound
    high: _Bound | None


@dataclass(frozen=True, slots=True)
class _State:
    phase: Literal["start", "sign", "whole", "point", "decimals"] = "start"
    negative: bool = False
    n_digits: int = 0  # of the current phase
    zero: bool = False  # the whole part is "0"
    low: _Side = 0
    high: _Side = 0
    remainder: int = 0


def number_automaton(bounds: NumberBounds, budget: Budget) -> Automaton:
    """Return what accepts the numbers within `bounds`.

    Raises:
        TooManyStates: a large multiple.
    """
    return explore(_State(), _Digits(bounds).step, budget)


class _Digits:
    def __init__(self, bounds: NumberBounds) -> None:
        self._bounds = bounds
        zero = Decimal(0)
        low, high = bounds.low, bounds.high
        self._intervals = {
            False: _interval(low, high, bounds.low_excluded, bounds.high_excluded),
            True: _interval(
                None if high is None else -high,
                None if low is None else -low,
                bounds.high_excluded,
                bounds.low_excluded,
            ),
        }
        negative = self._intervals[True]
        if negative and _value(negative.low) == zero:  # no "-0"
            self._intervals[True] = _Interval(replace(negative.low, excluded=True), negative.high)
        known = [one for one in self._intervals.values() if one]
        edges = [edge for one in known for edge in (one.low, one.high) if edge]
        usual = _INTEGER_DIGITS if bounds.integer else _DECIMAL_DIGITS
        longest = max((len(edge.whole) for edge in edges), default=1)
        unbounded = any(one.high is None for one in known)
        self._n_whole = max(usual, longest + 1) if unbounded else longest
        n_decimals = max(1, _DECIMAL_DIGITS - longest, *(len(edge.decimals) + 1 for edge in edges))
        self._n_decimals = n_decimals if bounds.n_decimals is None else bounds.n_decimals

    def step(self, state: _State) -> tuple[bool, Iterable[tuple[Ranges, _State]]]:
        leads: list[tuple[Ranges, _State]] = []
        if state.phase == "start" and self._intervals[True]:
            leads.append((_range("-"), replace(state, phase="sign", negative=True)))
        interval = self._intervals[state.negative]
        if interval is None:
            return False, leads
        if state.phase == "whole" and not self._bounds.integer and self._n_decimals > 0:
            leads.append((_range("."), self._at_point(state, interval)))
        leads += [(_range(digit), after) for digit in "0123456789" if (after := self._after(state, interval, digit))]
        return state.phase in ("whole", "decimals") and self._holds(state, interval), leads

    def _after(self, state: _State, interval: _Interval, digit: str) -> _State | None:
        if state.phase in ("point", "decimals"):
            if state.n_digits >= self._n_decimals:
                return None
            low = state.low or _compare(digit, _at(interval.low.decimals, state.n_digits))
            high = state.high or (_compare(digit, _at(interval.high.decimals, state.n_digits)) if interval.high else 0)
            return replace(state, phase="decimals", n_digits=state.n_digits + 1, low=low, high=high)
        if state.zero or state.n_digits >= self._n_whole:
            return None
        n = state.n_digits
        low = state.low or _compare(digit, interval.low.whole[n : n + 1] or "/")  # "/" is below "0"
        high = state.high or (_compare(digit, interval.high.whole[n : n + 1] or "/") if interval.high else 0)
        remainder = (state.remainder * 10 + int(digit)) % self._bounds.multiple_of
        zero = n == 0 and digit == "0"
        return replace(state, phase="whole", n_digits=n + 1, zero=zero, low=low, high=high, remainder=remainder)

    def _at_point(self, state: _State, interval: _Interval) -> _State:
        low, high = _sides(state, interval)
        return replace(state, phase="point", n_digits=0, zero=False, low=low, high=high)

    def _holds(self, state: _State, interval: _Interval) -> bool:
        low, high = _sides(state, interval) if state.phase == "whole" else (state.low, state.high)
        n = 0 if state.phase == "whole" else state.n_digits
        low = low or (-1 if len(interval.low.decimals) > n else 0)
        above = low > 0 or (low == 0 and not interval.low.excluded)
        if interval.high:
            high = high or (-1 if len(interval.high.decimals) > n else 0)
            below = high < 0 or (high == 0 and not interval.high.excluded)
        else:
            below = True
        return above and below and state.remainder == 0


def _sides(state: _State, interval: _Interval) -> tuple[_Side, _Side]:
    """Where the whole part stands: shorter numbers are smaller, equally long ones differ at their first digit."""
    low = _compare(state.n_digits, len(interval.low.whole)) or state.low
    high = (_compare(state.n_digits, len(interval.high.whole)) or state.high) if interval.high else 0
    return low, high


def _interval(low: Decimal | None, high: Decimal | None, low_excluded: bool, high_excluded: bool) -> _Interval | None:
    """The magnitudes of numbers from zero up between two bounds, or None where there are none."""
    if high is not None and (high < 0 or (high == 0 and high_excluded) or (low is not None and low > high)):
        return None
    start = _Bound("0", "", False) if low is None or low < 0 else _bound(low, low_excluded)
    return _Interval(start, None if high is None else _bound(high, high_excluded))


def _bound(value: Decimal, excluded: bool) -> _Bound:
    whole, _, decimals = format(value, "f").lstrip("-").partition(".")
    return _Bound(whole.lstrip("0") or "0", decimals.rstrip("0"), excluded)


def _value(bound: _Bound) -> Decimal:
    return Decimal(f"{bound.whole}.{bound.decimals or 0}")


def _compare(one: _Sortable, other: _Sortable) -> _Side:
    return -1 if one < other else 1 if one > other else 0


def _at(decimals: str, index: int) -> str:
    return decimals[index : index + 1] or "0"


def _range(character: str) -> Ranges:
    return ((ord(character), ord(character)),)
