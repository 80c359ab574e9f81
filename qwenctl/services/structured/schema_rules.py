"""The rules of the values that one schema allows. Pure.

plain form → goals → branches (schema_branches.py) → rules of each type (object_rules.py …)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.array_rules import array_rules
from qwenctl.services.structured.automaton import Budget, TooManyStates
from qwenctl.services.structured.automaton_rules import list_rules
from qwenctl.services.structured.grammar_rules import Item, Ref, RuleTable, literal
from qwenctl.services.structured.object_rules import object_rules
from qwenctl.services.structured.plain_schema import PlainSchema, Schema
from qwenctl.services.structured.scalar_rules import number_rule, string_rule
from qwenctl.services.structured.schema_branches import (
    Branch,
    Goal,
    branches,
    goal_key,
    listed_values,
    may_overlap,
    types_of,
)
from qwenctl.services.structured.value_check import ValueCheck

_MAX_GOALS = 5000
_MOST_OPTIONS = 20  # of oneOf that are compared with each other
_TOO_LONG = "the schema takes too long to be made a grammar: simplify it"
_UNENFORCED = (
    *("not", "if", "dependentRequired", "dependentSchemas", "contains", "uniqueItems", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties"),
)


class SchemaRules:
    """Adds to a table what values need, one goal after the other: recursion in a schema is none here.

    Args:
        rules: may hold those of other schemas.
        budget: of the work with automata.
    """

    def __init__(self, schema: PlainSchema, rules: RuleTable, budget: Budget) -> None:
        self.rules, self.budget = rules, budget
        self.unenforced: dict[str, None] = {}
        self.schema = schema
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, Goal]] = []

    def root(self, schema: Schema | None = None) -> str:
        """Return the name of the rule for the schema's values, or for those of one of its subschemas, all of it added.

        Raises:
            InvalidRequest: it is too large, or uses what can neither be enforced nor checked.
        """
        try:
            name = self.value([self.schema.root if schema is None else schema])
            while self._waiting:
                waiting, goal = self._waiting.pop()
                self._check_one_of(goal)
                ways = [[item] for branch in branches(self.schema, goal, self.budget) for item in self._ways(branch)]
                self.rules.define(waiting, self.rules.factored(ways))
        except TooManyStates as error:
            raise InvalidRequest(_TOO_LONG) from error
        return name

    def branches(self, schema: Schema) -> list[Branch]:
        """Return the branches of one of the schema's subschemas.

        Raises:
            InvalidRequest: there are too many.
        """
        try:
            return branches(self.schema, [schema], self.budget)
        except TooManyStates as error:
            raise InvalidRequest(_TOO_LONG) from error

    def value(self, goal: Goal) -> str:
        """Return the name of the rule for values that satisfy all schemas of `goal`."""
        key = goal_key(goal, self.budget)
        if key not in self._names:
            if len(self._names) >= _MAX_GOALS:
                raise InvalidRequest(f"the schema describes more than {_MAX_GOALS:,} different values: simplify it")
            self._names[key] = self.rules.reserve("value")
            self._waiting.append((self._names[key], goal))
        return self._names[key]

    def leave(self, keyword: str) -> None:
        """Note that `keyword` is left to the check of the answer."""
        self.unenforced[keyword] = None

    def _check_one_of(self, goal: Goal) -> None:
        """`oneOf` is written as `anyOf` is; where a value may satisfy two of its options, the check must see to it."""
        for facts in goal:
            options = facts.get("oneOf", []) if isinstance(facts, Mapping) else []
            if any(
                may_overlap(self.schema, one, two, self.budget) for one, two in combinations(options[:_MOST_OPTIONS], 2)
            ):
                self.leave("oneOf")

    def _ways(self, branch: Branch) -> list[Item]:
        if any("const" in facts or "enum" in facts for facts in branch):
            return self._listed(branch)
        for keyword in _UNENFORCED:
            if any(keyword in facts for facts in branch):
                self.leave(keyword)
        ways: list[Item] = []
        for kind in types_of(branch):
            ways += self._of_type(kind, branch)
        return ways

    def _of_type(self, kind: str, branch: Branch) -> list[Item]:
        if kind == "object":
            name = object_rules(self, branch)
        elif kind == "array":
            name = array_rules(self, branch)
        elif kind == "string":
            name = string_rule(self, branch)
        elif kind in ("number", "integer"):
            name = number_rule(self, branch, integer=kind == "integer")
        else:
            return [literal("true"), literal("false")] if kind == "boolean" else [literal("null")]
        return [Ref(name)] if name else []

    def _listed(self, branch: Branch) -> list[Item]:
        """The values of `const` and `enum` that satisfy the rest of the branch."""
        rest = [
            {key: value for key, value in facts.items() if key not in ("const", "enum", "type")} for facts in branch
        ]
        document = {"allOf": [facts for facts in rest if facts], "$defs": dict(self.schema.definitions)}
        values = listed_values(branch)
        self.budget.spend(len(values))
        if document["allOf"]:
            check = ValueCheck(document)
            values = [value for value in values if not check.failures(value)]
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
        return [Ref(list_rules(self.rules, "listed", texts))] if texts else []
