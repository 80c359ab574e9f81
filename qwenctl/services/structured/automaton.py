"""Deterministic automata over Unicode characters: what strings and numbers a schema allows. Pure.

Every set of strings that a schema can name (patterns, formats, bounds, lists of values) becomes one of these, because
they combine exactly (intersection) and because a grammar made of one is never in two minds: llama.cpp follows one
path, however wild the pattern was. States are numbered from 0, which is the start. Knows nothing of JSON and grammars.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

Ranges = tuple[tuple[int, int], ...]  # code points, both ends included, ascending, not touching
State = TypeVar("State", bound=Hashable)

MAX_STATES = 2000
ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))  # every character; half of a surrogate pair is none


class TooManyStates(Exception):
    """The automaton would have more than `MAX_STATES` states, or the work would take seconds."""


class Budget:
    """How much work one schema may make, in moves looked at: about a second's worth."""

    def __init__(self, n_moves: int = 400_000) -> None:
        self._n_left = n_moves

    def spend(self, n_moves: int) -> None:
        """Take from it.

        Raises:
            TooManyStates: it is used up.
        """
        self._n_left -= n_moves
        if self._n_left < 0:
            raise TooManyStates


@dataclass(frozen=True, slots=True)
class Automaton:
    """`moves[state]`: which characters lead where; a character in none of them ends the match."""

    moves: tuple[tuple[tuple[Ranges, int], ...], ...]
    accepting: frozenset[int]

    def matches(self, text: str) -> bool:
        """Whether it accepts the whole of `text`, in time proportional to its length."""
        state = 0
        for character in text:
            code = ord(character)
            target = next((target for ranges, target in self.moves[state] if contains(ranges, code)), None)
            if target is None:
                return False
            state = target
        return state in self.accepting

    @property
    def accepts_everything(self) -> bool:
        """Whether every text is accepted (of a minimal automaton)."""
        return len(self.moves) == 1 and 0 in self.accepting and _joined(r for r, _ in self.moves[0]) == ANY


def explore(
    start: State, step: Callable[[State], tuple[bool, Iterable[tuple[Ranges, State]]]], budget: Budget
) -> Automaton:
    """Return the minimal automaton whose states `step` describes: whether one accepts, and its disjoint moves.

    Raises:
        TooManyStates: before it is made smaller.
    """
    numbers: dict[State, int] = {start: 0}
    todo = [start]
    moves: list[dict[int, list[Ranges]]] = []
    accepting: set[int] = set()
    for state in todo:  # grows
        accepts, leads = step(state)
        if accepts:
            accepting.add(len(moves))
        targets: dict[int, list[Ranges]] = {}
        for ranges, target in leads:
            budget.spend(1)
            if not ranges:
                continue
            if target not in numbers:
                if len(numbers) >= MAX_STATES:
                    raise TooManyStates
                numbers[target] = len(numbers)
                todo.append(target)
            targets.setdefault(numbers[target], []).append(ranges)
        moves.append(targets)
    joined = [{target: _joined(parts) for target, parts in targets.items()} for targets in moves]
    return _minimal(joined, accepting, budget)


def intersection(first: Automaton, second: Automaton, budget: Budget) -> Automaton:
    """Return what both accept.

    Raises:
        TooManyStates: too many combinations of states.
    """

    def step(pair: tuple[int, int]) -> tuple[bool, Iterable[tuple[Ranges, tuple[int, int]]]]:
        one, two = pair
        leads = [
            (overlap(ranges, others), (target, other))
            for ranges, target in first.moves[one]
            for others, other in second.moves[two]
        ]
        return one in first.accepting and two in second.accepting, leads

    return explore((0, 0), step, budget)


def of_length(automaton: Automaton, low: int, high: int | None, budget: Budget) -> Automaton:
    """Return what `automaton` accepts and is `low` to `high` characters long.

    Raises:
        TooManyStates: too many combinations of states and lengths.
    """
    last = low if high is None else high

    def step(pair: tuple[int, int]) -> tuple[bool, Iterable[tuple[Ranges, tuple[int, int]]]]:
        state, length = pair
        full = high is not None and length >= high
        leads = [] if full else [(ranges, (to, min(length + 1, last))) for ranges, to in automaton.moves[state]]
        return state in automaton.accepting and length >= low, leads

    return explore((0, 0), step, budget)


def negation(automaton: Automaton, budget: Budget) -> Automaton:
    """Return what accepts every text that `automaton` does not."""

    def step(state: int | None) -> tuple[bool, Iterable[tuple[Ranges, int | None]]]:
        if state is None:
            return True, [(ANY, None)]
        leads: list[tuple[Ranges, int | None]] = list(automaton.moves[state])
        leads.append((complement(_joined(ranges for ranges, _ in automaton.moves[state])), None))
        return state not in automaton.accepting, leads

    start: int | None = 0
    return explore(start, step, budget)


def of_texts(texts: Iterable[str], budget: Budget) -> Automaton:
    """Return what accepts `texts` and nothing else.

    Raises:
        TooManyStates: the texts are too many or too long.
    """
    known = sorted(set(texts))

    def step(prefix: str) -> tuple[bool, Iterable[tuple[Ranges, str]]]:
        budget.spend(len(known) // 10)
        nexts = {text[len(prefix)] for text in known if len(text) > len(prefix) and text.startswith(prefix)}
        return prefix in known, [(((ord(one), ord(one)),), prefix + one) for one in nexts]

    return explore("", step, budget)


def contains(ranges: Ranges, code: int) -> bool:
    """Whether the code point is in `ranges`."""
    index = bisect_right(ranges, (code, 0x110000)) - 1
    return index >= 0 and ranges[index][1] >= code


def overlap(first: Ranges, second: Ranges) -> Ranges:
    """Return the characters in both."""
    found, one, two = [], 0, 0
    while one < len(first) and two < len(second):
        low, high = max(first[one][0], second[two][0]), min(first[one][1], second[two][1])
        if low <= high:
            found.append((low, high))
        if first[one][1] < second[two][1]:
            one += 1
        else:
            two += 1
    return tuple(found)


def complement(ranges: Ranges) -> Ranges:
    """Return every other character."""
    gaps, begin = [], 0
    for low, high in ranges:
        if low > begin:
            gaps.append((begin, low - 1))
        begin = high + 1
    if begin <= 0x10FFFF:
        gaps.append((begin, 0x10FFFF))
    return overlap(tuple(gaps), ANY)


def union(*parts: Ranges) -> Ranges:
    """Return the characters in any of `parts`."""
    return _joined(parts)


def _joined(parts: Iterable[Ranges]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(one for ranges in parts for one in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _minimal(moves: list[dict[int, Ranges]], accepting: set[int], budget: Budget) -> Automaton:
    """Drop states that lead nowhere, then join those that cannot be told apart (Moore's algorithm).

    States differ whose shortest or longest way to an end differs; to begin with that saves most of the rounds.
    """
    shortest = _shortest_ways(moves, accepting)
    moves = [{target: ranges for target, ranges in targets.items() if target in shortest} for targets in moves]
    longest = _longest_ways(moves)
    group = _renumbered((shortest.get(state, -1), longest.get(state)) for state in range(len(moves)))
    n_groups, n_moves = len(set(group)), sum(map(len, moves)) + len(moves)
    while True:
        budget.spend(n_moves)
        group = _renumbered(
            (number, frozenset(_by_group(targets, group).items())) for number, targets in zip(group, moves, strict=True)
        )
        if len(set(group)) == n_groups:
            break
        n_groups = len(set(group))
    return _numbered(moves, accepting, group)


def _by_group(targets: dict[int, Ranges], group: list[int]) -> dict[int, Ranges]:
    """Return which characters lead to which group of states."""
    parts: dict[int, list[Ranges]] = {}
    for target, ranges in targets.items():
        parts.setdefault(group[target], []).append(ranges)
    return {number: _joined(ranges) for number, ranges in parts.items()}


def _renumbered(values: Iterable[Hashable]) -> list[int]:
    """Return a number for each value, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _sources(moves: list[dict[int, Ranges]]) -> dict[int, list[int]]:
    sources: dict[int, list[int]] = {}
    for state, targets in enumerate(moves):
        for target in targets:
            sources.setdefault(target, []).append(state)
    return sources


def _shortest_ways(moves: list[dict[int, Ranges]], accepting: set[int]) -> dict[int, int]:
    """Return how many characters each state needs to an end at least; no entry where there is no end."""
    sources = _sources(moves)
    found, todo = dict.fromkeys(accepting, 0), list(accepting)
    for state in todo:  # grows
        for source in sources.get(state, []):
            if source not in found:
                found[source] = found[state] + 1
                todo.append(source)
    return found


def _longest_ways(moves: list[dict[int, Ranges]]) -> dict[int, int]:
    """Return how many characters can follow each state at most; no entry where there is no such limit."""
    sources = _sources(moves)
    n_open = [len(targets) for targets in moves]
    todo = [state for state, targets in enumerate(moves) if not targets]
    found = dict.fromkeys(todo, 0)
    for state in todo:  # grows; the last of its targets settles a source, and targets come in ascending order
        for source in sources.get(state, []):
            n_open[source] -= 1
            if not n_open[source]:
                found[source] = found[state] + 1
                todo.append(source)
    return found


def _numbered(moves: list[dict[int, Ranges]], accepting: set[int], group: list[int]) -> Automaton:
    """Return the automaton of groups, numbered in the order in which they are met from the start."""
    member = {number: state for state, number in reversed(list(enumerate(group)))}
    order: dict[int, int] = {group[0]: 0}
    result: list[tuple[tuple[Ranges, int], ...]] = []
    for number in (todo := [group[0]]):
        leads = sorted((ranges, to) for to, ranges in _by_group(moves[member[number]], group).items())
        for _, to in leads:
            if to not in order:
                order[to] = len(order)
                todo.append(to)
        result.append(tuple((ranges, order[to]) for ranges, to in leads))
    ends = frozenset(order[group[state]] for state in accepting if group[state] in order)
    return Automaton(tuple(result), ends)
