"""From a JSON schema to the grammar that holds an answer to it. Pure.

    schema → plain form (plain_schema.py) → branches of each value (schema_branches.py) → rules → GBNF

The grammar writes a part of what the schema allows, never more, but for the keywords in `AnswerGrammar.unenforced`:
properties come in the schema's order, ones that it does not name only where `additionalProperties` asks for them, and
white space is a space or a line break with its indentation, so that no model can go on with it for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.array_rules import array_rules
from qwenctl.services.structured.automaton import Budget
from qwenctl.services.structured.automaton_rules import list_rules
from qwenctl.services.structured.grammar_rules import Item, Ref, RuleTable, literal
from qwenctl.services.structured.object_rules import object_rules
from qwenctl.services.structured.plain_schema import PlainSchema, plain_schema
from qwenctl.services.structured.scalar_rules import number_rule, string_rule
from qwenctl.services.structured.schema_branches import Branch, Goal, branches, goal_key, may_overlap, types_of
from qwenctl.services.structured.value_check import failures

_MAX_GOALS = 5000
_MOST_OPTIONS = 20  # of oneOf that are compared with each other
_UNENFORCED = (
    *("not", "if", "dependentRequired", "dependentSchemas", "contains", "uniqueItems", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}  # what "a JSON object" means as a schema


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """A grammar, and what it leaves to the check of the finished answer."""

    gbnf: str
    unenforced: tuple[str, ...] = ()  # keywords

    @property
    def note(self) -> str | None:
        """A line for the user about `unenforced`."""
        if not self.unenforced:
            return None
        names = ", ".join(self.unenforced)
        return f"the schema's {names} cannot be enforced while the answer is written: it is checked afterwards"


def answer_grammar(schema: Any) -> AnswerGrammar:
    """Return the grammar of the JSON values that `schema` allows.

    Args:
        schema: a JSON schema as decoded JSON.

    Raises:
        InvalidRequest: it is no schema, too large, allows no value, or uses what cannot be enforced or checked.
    """
    plain = plain_schema(schema)
    compiler = _Compiler(plain)
    gbnf = compiler.grammar()
    if gbnf is None:
        raise InvalidRequest("no JSON value satisfies the schema")
    return AnswerGrammar(gbnf, tuple(compiler.unenforced))


class _Compiler:
    """Rules of values that are asked for, one goal after the other: recursion in a schema is none here."""

    def __init__(self, schema: PlainSchema) -> None:
        self.rules, self.budget = RuleTable(), Budget()
        self.unenforced: dict[str, None] = {}
        self._schema = schema
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, Goal]] = []

    def grammar(self) -> str | None:
        """Return the whole grammar; None: nothing satisfies the schema."""
        start = self.rules.add("start", [[Ref(self.value([self._schema.root]))]])
        while self._waiting:
            name, goal = self._waiting.pop()
            self._check_one_of(goal)
            self.rules.define(name, [[item] for branch in branches(self._schema, goal) for item in self._ways(branch)])
        return self.rules.text(start)

    def value(self, goal: Goal) -> str:
        """Return the name of the rule for values that satisfy all schemas of `goal`."""
        key = goal_key(goal)
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
            if any(may_overlap(self._schema, one, two) for one, two in combinations(options[:_MOST_OPTIONS], 2)):
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
        first = next(facts for facts in branch if "const" in facts or "enum" in facts)
        values = [first["const"]] if "const" in first else first["enum"]
        document = {"allOf": list(branch), "$defs": dict(self._schema.definitions)}
        fitting = [value for value in values if not failures(document, value)]
        texts = [json.dumps(value, ensure_ascii=False) for value in fitting]
        return [Ref(list_rules(self.rules, "listed", texts))] if texts else []
