"""What a value must satisfy, taken apart: `$ref`, `allOf`, `anyOf`, `oneOf` resolved into branches without them. Pure.

A goal is a list of plain schemas that must all hold. Each of its branches is a list of mappings without those four
keywords; a value satisfies the goal if it satisfies all mappings of one branch. (`oneOf`: if of one only; validation
sees to that.)
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import Budget
from qwenctl.services.structured.plain_schema import TYPES, PlainSchema, Schema
from qwenctl.services.structured.value_check import hashable

MAX_BRANCHES = 256

Goal = Sequence[Schema]
Branch = tuple[Mapping[str, Any], ...]
_RESOLVED = frozenset({"$ref", "allOf", "anyOf", "oneOf"})


def goal_key(goal: Goal, budget: Budget) -> str:
    """Return a text that is the same for goals that ask for the same."""
    key = "\n".join(sorted({json.dumps(schema, sort_keys=True) for schema in goal if schema not in (True, {})}))
    budget.spend(len(key) // 50 + 1)
    return key


def branches(schema: PlainSchema, goal: Goal, budget: Budget) -> list[Branch]:
    """Return the branches of `goal`, in the order in which the schema lists them; none if nothing satisfies it.

    Raises:
        InvalidRequest: there are more than `MAX_BRANCHES`.
        TooManyStates: the budget is used up.
    """
    done: dict[str, Branch] = {}
    open_ends: list[tuple[list[Schema], tuple[Mapping[str, Any], ...], frozenset[str]]] = [
        (list(goal), (), frozenset())
    ]
    while open_ends:
        waiting, facts, seen = open_ends.pop()
        if not waiting:
            done.setdefault(goal_key(facts, budget), facts)
        else:
            budget.spend(len(waiting) + len(facts) + 4)
            forks = _resolve_first(schema, waiting, facts, seen)
            open_ends += reversed(forks)
        if len(done) + len(open_ends) > MAX_BRANCHES:
            raise InvalidRequest(
                f"anyOf, oneOf and allOf of the schema combine to more than {MAX_BRANCHES} alternatives in one place"
            )
    return list(done.values())


def _resolve_first(
    schema: PlainSchema, waiting: list[Schema], facts: Branch, seen: frozenset[str]
) -> list[tuple[list[Schema], Branch, frozenset[str]]]:
    """Replace the first waiting schema by what it says; each fork is one way to satisfy it."""
    first, rest = waiting[0], waiting[1:]
    if isinstance(first, bool):
        return [(rest, facts, seen)] if first else []
    plain = {keyword: value for keyword, value in first.items() if keyword not in _RESOLVED}
    if plain and plain not in facts:
        facts = (*facts, plain)
    reference = first.get("$ref")
    if reference is not None and reference not in seen:  # a second time in one place it says nothing new
        rest = [schema.target(reference), *rest]
        seen |= {reference}
    rest = [*first.get("allOf", []), *rest]
    ways: list[list[Schema]] = [rest]
    for keyword in ("anyOf", "oneOf"):
        if keyword in first:
            ways = [[option, *way] for option in first[keyword] for way in ways]
    return [(way, facts, seen) for way in ways]


def types_of(branch: Branch) -> list[str]:
    """Return the types that a branch allows; `integer` only where `number` is not."""
    allowed = set(TYPES)
    for facts in branch:
        if "type" in facts:
            names = facts["type"] if isinstance(facts["type"], list) else [facts["type"]]
            named = {*names, *(["integer"] if "number" in names else [])}
            allowed &= named
    return [name for name in TYPES if name in allowed and (name != "integer" or "number" not in allowed)]


def listed_values(branch: Branch) -> list[Any]:
    """Return the values that all `const` and `enum` of a branch hold and its types allow; there must be one list."""
    wanted, kinds = _listed(branch) or set(), _kinds(branch)
    return [value for value in _lists(branch)[0] if _is_of(value, kinds) and hashable(value) in wanted]


def may_overlap(schema: PlainSchema, first: Schema, second: Schema, budget: Budget) -> bool:
    """Whether a value may satisfy both: unless their types differ, or the values of a property that both must have."""
    ones, twos = branches(schema, [first], budget), branches(schema, [second], budget)
    budget.spend(4 * len(ones) * len(twos))
    return any(_meet(one, two) for one in ones for two in twos)  # False where one has no branch


def _meet(one: Branch, two: Branch) -> bool:
    if not _kinds(one) & _kinds(two):
        return False
    values, others = _listed(one), _listed(two)
    if values is not None and others is not None and not values & others:
        return False
    if _kinds(one) & _kinds(two) != {"object"}:
        return True
    shared = _required(one) & _required(two)
    return all(
        mine is None or theirs is None or mine & theirs
        for mine, theirs in ((_listed(_of(one, name)), _listed(_of(two, name))) for name in shared)
    )


def _is_of(value: Any, kinds: set[str]) -> bool:
    if isinstance(value, bool) or value is None:
        return ("null" if value is None else "boolean") in kinds
    if isinstance(value, int | float):
        return "number" in kinds or ("integer" in kinds and value == int(value))
    return ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object") in kinds


def _kinds(branch: Branch) -> set[str]:
    kinds = set(types_of(branch))
    return kinds | ({"integer"} if "number" in kinds else set())


def _listed(branch: Branch) -> set[Hashable] | None:
    """The values that `const` and `enum` leave; None: there is no list."""
    sets = [{hashable(value) for value in values} for values in _lists(branch)]
    return set.intersection(*sets) if sets else None


def _lists(branch: Branch) -> list[list[Any]]:
    """What each `const` and `enum` of a branch lists."""
    constants = [[facts["const"]] for facts in branch if "const" in facts]
    return [*constants, *(facts["enum"] for facts in branch if "enum" in facts)]


def _required(branch: Branch) -> set[str]:
    return {name for facts in branch for name in facts.get("required", [])}


def _of(branch: Branch, name: str) -> Branch:
    """What a branch says of the property `name` directly."""
    said = [facts.get("properties", {}).get(name) for facts in branch]
    return tuple(schema for schema in said if isinstance(schema, dict))
