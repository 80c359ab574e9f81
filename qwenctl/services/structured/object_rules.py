"""Grammar rules of objects. Pure.

Named properties come in the schema's order; which of the optional ones are written is the model's choice. Others follow
only if the schema asks for them: by `additionalProperties` or `patternProperties`, or by naming none at all. Each state
of the way through the properties is a rule, once before the first that is written and once after it:

    first-i ::= gap "key-i" colon value-i after-i+1 | first-i+1        the second only if key i is optional
    after-i ::= "," gap "key-i" colon value-i after-i+1 | after-i+1
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import reduce
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import Automaton, TooManyStates, intersection, negation, of_texts
from qwenctl.services.structured.automaton_rules import character_rule, string_rules
from qwenctl.services.structured.grammar_rules import Item, Ref, Repeat, literal
from qwenctl.services.structured.regex_automaton import pattern_automaton
from qwenctl.services.structured.scalar_rules import count_limits
from qwenctl.services.structured.schema_branches import Branch
from qwenctl.services.structured.value_rules import ValueRules
from qwenctl.services.structured.white_space import colon_rule, gap_rule

MAX_PROPERTIES = 500  # of one object


@dataclass(frozen=True, slots=True)
class _Property:
    items: tuple[Item, ...]  # key, colon, value
    required: bool


def object_rules(values: ValueRules, branch: Branch) -> str | None:
    """Return the name of the rule for the objects of `branch`; None: there are none.

    Raises:
        InvalidRequest: it has too many properties, or their names cannot be told from free ones.
    """
    try:
        patterns = _Patterns(values, branch)
        properties = _properties(values, branch, patterns)
        if properties is None:
            return None
        free = _free(values, branch, patterns)
    except TooManyStates as error:
        raise InvalidRequest("the names of the schema's properties are too many to tell others from them") from error
    low, high = count_limits(values, branch, "minProperties", "maxProperties")
    if not properties and free:
        return _map_rule(values, free, low, high)
    n_required = sum(one.required for one in properties)
    if low > n_required:
        values.leave("minProperties")
    if high is not None and (free or high < len(properties)):
        values.leave("maxProperties")
    return _chain(values, properties, free)


class _Patterns:
    """The `patternProperties` of a branch: names as automata."""

    def __init__(self, values: ValueRules, branch: Branch) -> None:
        self.automata = {
            pattern: pattern_automaton(pattern, values.budget)
            for facts in branch
            for pattern in facts.get("patternProperties", {})
        }
        if len(self.automata) > 1:
            values.leave("patternProperties")  # names that match several are not held to all

    def goal(self, branch: Branch, name: str) -> list[Any]:
        """What the property `name` must satisfy."""
        goal = []
        for facts in branch:
            known = [facts["properties"][name]] if name in facts.get("properties", {}) else []
            patterns = facts.get("patternProperties", {})
            known += [patterns[pattern] for pattern in patterns if self.automata[pattern].matches(name)]
            goal += known or [facts.get("additionalProperties", True)]
        return goal


def _properties(values: ValueRules, branch: Branch, patterns: _Patterns) -> list[_Property] | None:
    """The named properties in order; None: one that must be there cannot be."""
    required = dict.fromkeys(name for facts in branch for name in facts.get("required", []))
    names = dict.fromkeys(name for facts in branch for name in facts.get("properties", {})) | required
    if len(names) > MAX_PROPERTIES:
        raise InvalidRequest(f"an object of the schema has {len(names)} properties; at most {MAX_PROPERTIES} are taken")
    colon = Ref(colon_rule(values.rules))
    properties = []
    for name in names:
        goal = patterns.goal(branch, name)
        if False in goal:
            if name in required:
                return None
            continue
        key = literal(json.dumps(name, ensure_ascii=False))
        properties.append(_Property((key, colon, Ref(values.value(goal))), name in required))
    return properties


def _free(values: ValueRules, branch: Branch, patterns: _Patterns) -> str | None:
    """The rule of a property that the schema does not name; None: there are none."""
    named = {name for facts in branch for key in ("properties", "required") for name in facts.get(key, ())}
    unnamed = [negation(of_texts(named, values.budget), values.budget)] if named else []
    ways: list[list[Item]] = []
    for pattern, automaton in patterns.automata.items():
        goal = [
            facts["patternProperties"][pattern] for facts in branch if pattern in facts.get("patternProperties", {})
        ]
        ways += _free_way(values, [automaton, *unnamed], goal)
    others = [facts["additionalProperties"] for facts in branch if "additionalProperties" in facts]
    if others or not (named or patterns.automata):
        outside = [negation(automaton, values.budget) for automaton in patterns.automata.values()]
        ways += _free_way(values, [*outside, *unnamed], others)
    return values.rules.add("free", ways) if ways else None


def _free_way(values: ValueRules, names: list[Automaton], goal: list[Any]) -> list[list[Item]]:
    if False in goal:
        return []
    key: Item = Repeat(character_rule(values.rules), 0, None)
    if names:
        automaton = reduce(lambda one, two: intersection(one, two, values.budget), names)
        if not automaton.accepting:
            return []
        key = Ref(string_rules(values.rules, "name", automaton))
    return [[literal('"'), key, literal('"'), Ref(colon_rule(values.rules)), Ref(values.value(goal))]]


def _map_rule(values: ValueRules, free: str, low: int, high: int | None) -> str | None:
    """An object of free properties only, which can be counted."""
    if high is not None and high < low:
        return None
    gap = Ref(gap_rule(values.rules))
    more = values.rules.add("entry", [[literal(","), gap, Ref(free)]])
    ways: list[list[Item]] = [] if low else [[literal("{}")]]
    if high != 0:
        others = values.rules.repeat(more, max(0, low - 1), None if high is None else high - 1)
        ways.append([literal("{"), gap, Ref(free), *others, gap, literal("}")])
    return values.rules.add("object", ways)


def _chain(values: ValueRules, properties: list[_Property], free: str | None) -> str:
    rules, gap = values.rules, Ref(gap_rule(values.rules))
    end: list[list[Item]] = [[gap, literal("}")]]
    if free:
        after = rules.reserve("after")
        rules.define(after, [[literal(","), gap, Ref(free), Ref(after)], *end])
        first = rules.add("first", [[gap, Ref(free), Ref(after)], [literal("}")]])
    else:
        after, first = rules.add("after", end), rules.add("first", [[literal("}")]])
    for one in reversed(properties):
        written: list[Item] = [*one.items, Ref(after)]
        first = rules.add("first", [[gap, *written], *([] if one.required else [[Ref(first)]])])
        after = rules.add("after", [[literal(","), gap, *written], *([] if one.required else [[Ref(after)]])])
    return rules.add("object", [[literal("{"), Ref(first)]])
