"""How many readings of one text a grammar may leave open while the text is written. Pure.

llama.cpp keeps every reading apart, each with its own stack, and looks at all of them for every token: a grammar of a
stranger whose readings double with each character stops a server for good, also within one call. This is told from
the first characters alone, so it is a bound from above: some grammars that are fine in practice have a high one.

    readings     of a rule: its alternatives that begin with the same character, each times what is in it
    doubling     two of them lead back to the rule and go on after that: twice as many at each level

Readings that differ only in where white space belongs come together again, and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_cost import innermost_first, may_be_empty, passes
from qwenctl.services.grammar_shape import Item, Sequence, read_rules
from qwenctl.services.structured.automaton import Ranges, union

MAX_READINGS = 5000

_HINT = "let alternatives begin with different characters, or move what they share before them"


@dataclass(frozen=True, slots=True)
class _Start:
    """What may begin at a place, by its first characters."""

    first: Ranges
    leads_back: int  # 1: to the rule that holds it, in a nested loop
    readings: int  # before the tail
    tail: str | None = None  # the rule that ends it; alternatives with the same one come together there


def check_readings(grammar: str) -> None:
    """Raise if the readings of a text may multiply without end, or to more than `MAX_READINGS`.

    Args:
        grammar: that `check_grammar` has passed.

    Raises:
        InvalidRequest: they may.
    """
    rules = read_rules(grammar)
    empty = may_be_empty(rules)
    first = _first_characters(rules, empty)
    component, order = _components(rules)
    nested = _nested_loops(rules, component)
    readings: dict[str, int] = {}
    for name in order:  # those that a rule uses come before it, but for its own loop
        place = _Place(component[name], component[name] in nested, component, readings, first, empty)
        most = 1
        for starts in place.start_sets(rules[name]):
            if _most((one.first, one.leads_back) for one in starts) > 1:
                raise InvalidRequest("the readings of one text may double without end under the grammar", _HINT)
            most = max(most, _most([*((one.first, one.readings) for one in starts), *place.tails(starts)]))
        if most > MAX_READINGS:
            raise InvalidRequest(f"the grammar may leave more than {MAX_READINGS:,} readings of one text open", _HINT)
        readings[name] = most


@dataclass(frozen=True, slots=True)
class _Place:
    """A rule's loop, and what is known of the others."""

    loop: int
    is_nested: bool  # something follows where the loop closes, and is remembered once a round
    component: Mapping[str, int]
    readings: Mapping[str, int]
    first: Mapping[str, Ranges]
    empty: set[str]

    def start_sets(self, alternatives: list[Sequence]) -> Iterator[list[_Start]]:
        """Yield what may begin at one place: the alternatives, then optional items with those after them."""
        yield [one for sequence in alternatives for one in self._alternative(sequence)]
        for sequence in alternatives:
            is_held = False  # by the set before it
            for index, item in enumerate(sequence):
                if (passes(item, self.empty) or item.high != 1) and not is_held:
                    yield self._items(sequence, index)
                is_held = passes(item, self.empty)

    def _alternative(self, sequence: Sequence) -> list[_Start]:
        beginning = self._items(sequence, 0)
        leads_back = max((self._leads_back(sequence, index) for index in range(len(sequence))), default=0)
        tail = sequence[-1].rule if sequence and sequence[-1].high == 1 else None
        most = max((self._readings(item) for item in (sequence if tail is None else sequence[:-1])), default=0)
        return [_Start(union(*(one.first for one in beginning)), leads_back, most, tail)]

    def tails(self, starts: list[_Start]) -> Iterator[tuple[Ranges, int]]:
        """Yield each tail once, with the first characters of all that end in it."""
        for tail in {one.tail for one in starts if one.tail is not None}:
            yield union(*(one.first for one in starts if one.tail == tail)), self.readings.get(tail, 1)

    def _items(self, sequence: Sequence, place: int) -> list[_Start]:
        found = []
        for index in range(place, len(sequence)):
            item = sequence[index]
            first = item.first if item.rule is None else self.first.get(item.rule, ())
            found.append(_Start(first, self._leads_back(sequence, index), self._readings(item)))
            if not passes(item, self.empty) and not (index == place and item.high != 1):
                break
        return found

    def _leads_back(self, sequence: Sequence, index: int) -> int:
        rule = sequence[index].rule
        return int(self.is_nested and rule is not None and self.component.get(rule) == self.loop)

    def _readings(self, item: Item) -> int:
        """Those of a loop's own rules are counted where they are."""
        return 1 if item.rule is None else self.readings.get(item.rule, 1)


def _nested_loops(rules: Mapping[str, list[Sequence]], component: Mapping[str, int]) -> set[int]:
    return {
        component[name]
        for name, alternatives in rules.items()
        for sequence in alternatives
        for index, item in enumerate(sequence)
        if item.rule is not None and component.get(item.rule) == component[name]
        if index + 1 < len(sequence) or item.high != 1
    }


def _first_characters(rules: Mapping[str, list[Sequence]], empty: set[str]) -> dict[str, Ranges]:
    first: dict[str, Ranges] = {}
    for name in innermost_first(rules, empty):
        parts: list[Ranges] = []
        for sequence in rules[name]:
            for item in sequence:
                parts.append(item.first if item.rule is None else first.get(item.rule, ()))
                if not passes(item, empty):
                    break
        first[name] = union(*parts)
    return first


def _most(starts: Iterable[tuple[Ranges, int]]) -> int:
    """Return the largest sum of weights over those that begin with one and the same character."""
    changes: dict[int, int] = {}
    for first, weight in starts:
        for low, high in first if weight else ():
            changes[low] = changes.get(low, 0) + weight
            changes[high + 1] = changes.get(high + 1, 0) - weight
    most = current = 0
    for point in sorted(changes):
        current += changes[point]
        most = max(most, current)
    return most


def _components(rules: Mapping[str, list[Sequence]]) -> tuple[dict[str, int], list[str]]:
    """Return for each rule the number of its loop, and all rules, users last (Kosaraju's algorithm)."""
    uses = {
        name: {item.rule for sequence in alternatives for item in sequence if item.rule in rules}
        for name, alternatives in rules.items()
    }
    order = _finished(uses, list(rules))
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, others in uses.items():
        for other in others:
            if other is not None:
                users[other].add(name)
    component: dict[str, int] = {}
    for number, name in enumerate(reversed(order)):
        todo = [name] if name not in component else []
        while todo:
            one = todo.pop()
            if one not in component:
                component[one] = number
                todo += users[one]
    return component, order


def _finished(uses: Mapping[str, set[str | None]], names: list[str]) -> list[str]:
    """Return the rules in the order in which a depth-first walk leaves them."""
    order: list[str] = []
    seen: set[str] = set()
    for start in names:
        todo: list[tuple[str, bool]] = [(start, False)]
        while todo:
            name, is_done = todo.pop()
            if is_done:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                todo.append((name, True))
                todo += [(other, False) for other in uses[name] if other is not None and other not in seen]
    return order
