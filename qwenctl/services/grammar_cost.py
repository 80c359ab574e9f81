"""What a grammar would cost llama.cpp before the first token, and whether it would come to an end at all. Pure.

size     repetitions are written out: "…"{2000} is 2,000 copies of the text
ways     from a place to the characters that may come next: llama.cpp follows each, and at its start without
         remembering any; twenty rules that choose twice make a million
chain    how long a row of rules is, each beginning with the next: one native call each
loops    a rule that begins with itself would be followed for ever; llama.cpp's own search for them misses those
         behind rules that are empty only by way of others
"""

from __future__ import annotations

from collections.abc import Mapping

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_shape import Item, Sequence, read_rules

MAX_ELEMENTS = 1_000_000  # 8 bytes each
MAX_WAYS = 5_000  # of one rule
MAX_WAYS_TOGETHER = 2_000_000
MAX_CHAIN = 2_000
MAX_REPETITIONS = 2_000  # llama.cpp refuses more, and takes a larger upper limit for none

_HINT = "write less into one rule"


def check_cost(grammar: str) -> None:
    """Raise if llama.cpp could not digest `grammar`.

    Raises:
        InvalidRequest: it is not GBNF, its groups are nested too deeply, or it would take too much memory or time.
    """
    rules = read_rules(grammar)
    _check_size(rules)
    _check_first_steps(rules)


def _check_size(rules: Mapping[str, list[Sequence]]) -> None:
    n_elements = 0
    for sequence in (sequence for alternatives in rules.values() for sequence in alternatives):
        for item in sequence:
            if max(item.low, item.high or 0) > MAX_REPETITIONS:
                count = max(item.low, item.high or 0)
                raise InvalidRequest(f"the grammar repeats something {count:,} times; at most {MAX_REPETITIONS:,} work")
            n_optional = 1 if item.high is None else item.high - item.low
            n_elements += item.n_elements * (max(item.low, 1) + max(n_optional, 0)) + 3
    if n_elements > MAX_ELEMENTS:
        raise InvalidRequest(f"the grammar is too large once its repetitions are written out ({n_elements:,} elements)")


def _check_first_steps(rules: Mapping[str, list[Sequence]]) -> None:
    empty = may_be_empty(rules)
    begins = {name: _beginnings(name, alternatives, empty) for name, alternatives in rules.items()}
    ways: dict[str, int] = {}
    chain: dict[str, int] = {}
    for name in _sorted_by_beginning(begins):
        counts = {other: min(ways.get(other, 1), MAX_WAYS + 1) for other in begins[name]}
        chain[name] = 1 + max((chain.get(other, 0) for other in counts), default=0)
        ways[name] = sum(_ways(sequence, empty, counts) for sequence in rules[name])
        if ways[name] > MAX_WAYS:
            raise InvalidRequest(f"the grammar can go on in more than {MAX_WAYS:,} ways in one place", _HINT)
        if chain[name] > MAX_CHAIN:
            raise InvalidRequest(f"more than {MAX_CHAIN:,} rules of the grammar begin with one another", _HINT)
    if sum(ways.values()) > MAX_WAYS_TOGETHER:
        raise InvalidRequest("the grammar can go on in too many ways", _HINT)


def may_be_empty(rules: Mapping[str, list[Sequence]]) -> set[str]:
    """Return the rules that may match nothing."""
    users: dict[str, set[str]] = {}
    for name, alternatives in rules.items():
        for item in (item for sequence in alternatives for item in sequence):
            if item.rule is not None:
                users.setdefault(item.rule, set()).add(name)
    empty: set[str] = set()
    todo = list(rules)
    while todo:
        name = todo.pop()
        if name in empty or name not in rules:
            continue
        if any(all(passes(item, empty) for item in sequence) for sequence in rules[name]):
            empty.add(name)
            todo += users.get(name, ())
    return empty


def passes(item: Item, empty: set[str]) -> bool:
    """Whether the item may match nothing."""
    return item.low == 0 or (item.rule in empty if item.rule is not None else item.n_elements == 0)


def _beginnings(name: str, alternatives: list[Sequence], empty: set[str]) -> set[str]:
    """The rules that the rule may begin with; itself, if it repeats what may be empty without end."""
    found = set()
    for sequence in alternatives:
        for item in sequence:
            if item.rule is not None:
                found.add(item.rule)
                if item.high is None and item.rule in empty:
                    found.add(name)
            if not passes(item, empty):
                break
    return found


def _ways(sequence: Sequence, empty: set[str], counts: Mapping[str, int]) -> int:
    total = 1
    for item in sequence:
        once = counts.get(item.rule, 1) if item.rule is not None else 1
        copies = max(item.low, item.high or 0, 1) if item.rule in empty else 1
        total += once * copies + 1
        if not passes(item, empty):
            break
    return total


def innermost_first(rules: Mapping[str, list[Sequence]], empty: set[str]) -> list[str]:
    """Return the rules, each after those it may begin with.

    Raises:
        InvalidRequest: one begins with itself.
    """
    return _sorted_by_beginning({name: _beginnings(name, rules[name], empty) for name in rules})


def _sorted_by_beginning(begins: Mapping[str, set[str]]) -> list[str]:
    """Return the rules, each after those it begins with.

    Raises:
        InvalidRequest: one begins with itself.
    """
    order: list[str] = []
    state = dict.fromkeys(begins, 0)  # 1: its beginnings are being looked at, 2: done
    for start in begins:
        todo = [start]
        while todo:
            name = todo[-1]
            if state[name] == 0:
                state[name] = 1
                for other in begins[name]:
                    if state.get(other) == 1:
                        raise InvalidRequest(f"a rule of the grammar begins with itself: {_shown(other)}", _HINT)
                    if state.get(other) == 0:
                        todo.append(other)
                continue
            todo.pop()
            if state[name] == 1:
                state[name] = 2
                order.append(name)
    return order


def _shown(name: str) -> str:
    return "a group" if name.startswith("(") else name[:60]
