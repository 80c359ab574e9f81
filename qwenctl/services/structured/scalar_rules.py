"""Grammar rules of strings and numbers. Pure."""

from __future__ import annotations

from decimal import Decimal
from functools import reduce
from math import lcm
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import Automaton, TooManyStates, intersection, of_length
from qwenctl.services.structured.automaton_rules import character_rule, string_rules, text_rules
from qwenctl.services.structured.grammar_rules import Item, Ref, Repeat, Terminal, literal
from qwenctl.services.structured.number_automaton import NumberBounds, number_automaton
from qwenctl.services.structured.plain_schema import MAX_COUNT
from qwenctl.services.structured.regex_automaton import pattern_automaton
from qwenctl.services.structured.schema_branches import Branch
from qwenctl.services.structured.string_formats import FORMATS
from qwenctl.services.structured.value_rules import ValueRules

_DIGIT = Terminal("[0-9]")
_LARGEST_MULTIPLE = 500
_TOO_LARGE = "the patterns and bounds of the schema are too large to be enforced: simplify them"


def string_rule(values: ValueRules, branch: Branch) -> str | None:
    """Return the name of the rule for the strings of `branch`; None: there are none.

    Raises:
        InvalidRequest: a pattern is refused or too large, or a length is out of reach.
    """
    low, high = count_limits(values, branch, "minLength", "maxLength")
    content: list[Item]
    if high is not None and high < low:
        return None
    try:
        automaton = _pattern(values, branch)
        if automaton is not None and (low > 0 or high is not None):
            automaton = _with_length(values, automaton, low, high)
    except TooManyStates as error:
        raise InvalidRequest(_TOO_LARGE) from error
    if automaton is None:
        content = values.rules.repeat(character_rule(values.rules), low, high)
    else:
        content = [Ref(string_rules(values.rules, "text", automaton))]
    return values.rules.add("string", [[literal('"'), *content, literal('"')]])


def number_rule(values: ValueRules, branch: Branch, *, integer: bool) -> str | None:
    """Return the name of the rule for the numbers of `branch`; None: there are none.

    Raises:
        InvalidRequest: the bounds are out of reach.
    """
    bounds = _bounds(values, branch, integer=integer)
    if bounds == NumberBounds(integer=bounds.integer):
        return _any_number(values, integer=bounds.integer)
    try:
        automaton = number_automaton(bounds, values.budget)
    except TooManyStates as error:
        raise InvalidRequest(_TOO_LARGE) from error
    return text_rules(values.rules, "number", automaton) if automaton.accepting else None


def count_limits(values: ValueRules, branch: Branch, least: str, most: str) -> tuple[int, int | None]:
    """Return the limits of a count; one too large for a grammar is no limit, and noted.

    Raises:
        InvalidRequest: so many are asked for that no answer could hold them.
    """
    low = max((int(facts[least]) for facts in branch if least in facts), default=0)
    high = min((int(facts[most]) for facts in branch if most in facts), default=None)
    if low > MAX_COUNT:
        raise InvalidRequest(f"the schema's {least} is above {MAX_COUNT:,}, the most that can be enforced")
    if high is not None and high > MAX_COUNT:
        values.leave(most)
        high = None
    return low, high


def _pattern(values: ValueRules, branch: Branch) -> Automaton | None:
    """What all patterns and formats of the branch accept; None: everything."""
    patterns = [facts["pattern"] for facts in branch if "pattern" in facts]
    for facts in branch:
        name = facts.get("format")
        if name is not None and name in FORMATS:
            patterns.append(FORMATS[name])
        elif name is not None:
            values.leave(f"format {name!r}")
    automata = [pattern_automaton(pattern, values.budget) for pattern in dict.fromkeys(patterns)]
    narrow = [automaton for automaton in automata if not automaton.accepts_everything]
    return reduce(lambda one, two: intersection(one, two, values.budget), narrow) if narrow else None


def _with_length(values: ValueRules, automaton: Automaton, low: int, high: int | None) -> Automaton:
    """Narrow `automaton` to these lengths, or leave the lengths to the check where that makes it too large."""
    try:
        return of_length(automaton, low, high, values.budget)
    except TooManyStates:
        values.leave("minLength" if high is None else "maxLength")
        return automaton


def _any_number(values: ValueRules, *, integer: bool) -> str:
    """Digits end: eighteen before the point, fifteen after it, two in an exponent."""
    rules = values.rules
    digit = rules.add("digit", [[_DIGIT]])
    whole: list[list[Item]] = [[literal("0")], [Terminal("[1-9]"), Repeat(digit, 0, 17 if integer else 14)]]
    sign = rules.add("minus", [[literal("-")], []])
    integral = rules.add("integral", whole)
    if integer:
        return rules.add("integer", [[Ref(sign), Ref(integral)]])
    decimals = rules.add("decimals", [[literal("."), Repeat(digit, 1, 15)], []])
    plus = rules.add("plus", [[Terminal("[-+]")], []])
    exponent = rules.add("exponent", [[Terminal("[eE]"), Ref(plus), Repeat(digit, 1, 2)], []])
    return rules.add("number", [[Ref(sign), Ref(integral), Ref(decimals), Ref(exponent)]])


def _bounds(values: ValueRules, branch: Branch, *, integer: bool) -> NumberBounds:
    low, low_excluded = _limit(branch, "minimum", "exclusiveMinimum", sign=1)
    high, high_excluded = _limit(branch, "maximum", "exclusiveMaximum", sign=-1)
    multiple, n_decimals = 1, None
    for facts in branch:
        if "multipleOf" not in facts:
            continue
        step = _decimal(facts["multipleOf"])
        if step == step.to_integral_value() and lcm(multiple, int(step)) <= _LARGEST_MULTIPLE:
            multiple, integer = lcm(multiple, int(step)), True  # multiples of whole numbers are whole
        elif step < 1 and step.normalize().as_tuple().digits == (1,):
            places = min(15, -int(step.normalize().as_tuple().exponent))
            n_decimals = places if n_decimals is None else min(places, n_decimals)
        else:
            values.leave("multipleOf")
    reach = Decimal(10) ** (18 if integer else 15)
    if (low is not None and low >= reach) or (high is not None and high <= -reach):
        raise InvalidRequest("the schema asks for numbers of more digits than can be enforced")
    return NumberBounds(
        low=None if low is not None and low <= -reach else low,
        high=None if high is not None and high >= reach else high,
        low_excluded=low_excluded,
        high_excluded=high_excluded,
        integer=integer,
        multiple_of=multiple,
        n_decimals=None if integer else n_decimals,
    )


def _limit(branch: Branch, including: str, excluding: str, *, sign: int) -> tuple[Decimal | None, bool]:
    """Return the strictest of all limits, and whether it is excluded."""
    limits = [
        (_decimal(facts[keyword]) * sign, keyword == excluding)
        for facts in branch
        for keyword in (including, excluding)
        if keyword in facts
    ]
    if not limits:
        return None, False
    value, excluded = max(limits)
    return value * sign, excluded


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(value))
