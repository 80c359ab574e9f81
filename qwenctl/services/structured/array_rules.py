"""Grammar rules of arrays. Pure.

array   "[" ( ws item ( "," ws item )* ws )? "]"
tuple   one rule a place: each may be the last where the schema's counts let it be
"""

from __future__ import annotations

from typing import Any

from qwenctl.services.structured.grammar_rules import Item, Ref, literal
from qwenctl.services.structured.scalar_rules import count_limits
from qwenctl.services.structured.schema_branches import Branch
from qwenctl.services.structured.value_rules import ValueRules
from qwenctl.services.structured.white_space import gap_rule


def array_rules(values: ValueRules, branch: Branch) -> str | None:
    """Return the name of the rule for the arrays of `branch`; None: there are none.

    Raises:
        InvalidRequest: more items are asked for than an answer could hold.
    """
    low, high = count_limits(values, branch, "minItems", "maxItems")
    n_places = max(len(facts.get("prefixItems", [])) for facts in branch) if branch else 0
    goals = [_goal(branch, place) for place in range(n_places)]
    rest = _goal(branch, n_places)
    if n_places and not any("items" in facts for facts in branch) and low <= n_places:
        rest = [False]  # a tuple is not followed by whatever
    if high is not None and high < low:
        return None
    gap = Ref(gap_rule(values.rules))
    tail = _rest(values, rest, max(0, low - n_places), None if high is None else max(0, high - n_places), n_places > 0)
    for place in reversed(range(n_places)):
        ways: list[list[Item]] = []
        if high is None or place < high:
            comma: list[Item] = [literal(","), gap] if place else [gap]
            ways.append([*comma, Ref(values.value(goals[place])), Ref(tail)])
        if place >= low:
            ways.append([gap, literal("]")] if place else [literal("]")])
        tail = values.rules.add("places", ways)
    return values.rules.add("array", [[literal("["), Ref(tail)]])


def _rest(values: ValueRules, goal: list[Any], low: int, high: int | None, follows: bool) -> str:
    """The rule of the items without a place of their own and the end of the array; `follows`: others come before."""
    gap = Ref(gap_rule(values.rules))
    end: list[Item] = [gap, literal("]")]
    if False in goal or high == 0:
        return values.rules.add("items", [] if low else [end if follows else [literal("]")]])
    item = Ref(values.value(goal))
    more = values.rules.add("item", [[literal(","), gap, item]])
    if follows:
        return values.rules.add("items", [[*values.rules.repeat(more, low, high), *end]])
    others = values.rules.repeat(more, max(0, low - 1), None if high is None else high - 1)
    ways: list[list[Item]] = [[gap, item, *others, *end]]
    return values.rules.add("items", ways if low else [*ways, [literal("]")]])


def _goal(branch: Branch, place: int) -> list[Any]:
    """What the item at `place` must satisfy."""
    goal = []
    for facts in branch:
        places = facts.get("prefixItems", [])
        goal.append(places[place] if place < len(places) else facts.get("items", True))
    return goal
