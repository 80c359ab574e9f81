"""The grammar of a reply that calls tools: one call or several, their arguments held to the tools' schemas. Pure.

Hermes: a line of JSON within tags. XML: a tag for each parameter; what may be a string is any text up to its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.answer_grammar import AnswerGrammar
from qwenctl.services.structured.automaton import Budget, negation
from qwenctl.services.structured.automaton_rules import list_rules, text_rules
from qwenctl.services.structured.grammar_rules import Item, Ref, Repeat, RuleTable, literal
from qwenctl.services.structured.plain_schema import plain_schema
from qwenctl.services.structured.regex_automaton import pattern_automaton
from qwenctl.services.structured.schema_branches import listed_values, types_of
from qwenctl.services.structured.schema_rules import SchemaRules
from qwenctl.services.tools.tool_call import CLOSE_TAG, OPEN_TAG, ToolFormat
from qwenctl.services.tools.tool_choice import ToolChoice

MOST_CALLS = 16  # in one reply that must call


def call_grammar(
    tools: Sequence[Mapping[str, Any]], choice: ToolChoice, tool_format: ToolFormat, *, answer: Any | None = None
) -> AnswerGrammar:
    """Return the grammar of calls of `tools`.

    Args:
        tools: in OpenAI's form.
        choice: which tools, and whether one call or several.
        tool_format: as the model writes calls.
        answer: a JSON schema of what may be written instead of calls; None: a call is a must.

    Raises:
        InvalidRequest: a tool's schema or `answer` cannot be enforced.
    """
    rules, budget = RuleTable(), Budget()
    left: dict[str, None] = {}
    ways = []
    write = _hermes if tool_format == "hermes" else partial(_xml, raw=_raw_rule(rules, budget))
    for tool in tools:
        function = tool.get("function", tool)
        if choice.name in (None, function["name"]):
            schema = function.get("parameters") or {"type": "object"}
            ways.append(write(SchemaRules(plain_schema(schema), rules, budget), function["name"]))
    call = rules.add("call", ways)
    more = rules.add("more", [[literal("\n"), Ref(call)]])
    starts: list[list[Item]] = [[Ref(call), Repeat(more, 0, MOST_CALLS - 1 if choice.parallel else 0)]]
    if answer is not None:
        compiler = SchemaRules(plain_schema(answer), rules, budget)
        starts.append([Ref(compiler.root())])
        left = compiler.unenforced
    text = rules.text(rules.add("start", starts))
    if text is None:
        raise InvalidRequest("no arguments satisfy the schema of any tool")
    return AnswerGrammar(text, tuple(left))


def _hermes(compiler: SchemaRules, name: str) -> list[Item]:
    head = f'{OPEN_TAG}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
    return [literal(head), Ref(compiler.root()), literal(f"}}\n{CLOSE_TAG}")]


def _xml(compiler: SchemaRules, name: str, raw: str) -> list[Item]:
    items: list[Item] = [literal(f"{OPEN_TAG}\n<function={name}>\n")]
    schema = compiler.schema.root if isinstance(compiler.schema.root, dict) else {}
    required = schema.get("required", [])
    for key, value in schema.get("properties", {}).items():
        way = [literal(f"<parameter={key}>\n"), _xml_value(compiler, value, raw), literal("\n</parameter>\n")]
        if key in required:
            items += way
        else:
            items.append(Repeat(compiler.rules.add("parameter", [way]), 0, 1))
    return [*items, literal(f"</function>\n{CLOSE_TAG}")]


def _xml_value(compiler: SchemaRules, value: Any, raw: str) -> Item:
    """A value as the format writes it: strings without quotes, everything else as JSON."""
    options = compiler.branches(value)
    if not any("string" in types_of(branch) for branch in options):
        return Ref(compiler.root(value))
    if len(options) == 1 and any("const" in facts or "enum" in facts for facts in options[0]):
        values = listed_values(options[0])
        if all(isinstance(one, str) for one in values):
            return Ref(list_rules(compiler.rules, "listed", values))
    return Ref(raw)


def _raw_rule(rules: RuleTable, budget: Budget) -> str:
    """The rule of any text up to its end; all parameters share it."""
    return text_rules(rules, "raw", negation(pattern_automaton("\n</parameter>", budget), budget))
