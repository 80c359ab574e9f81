"""A call in tags throughout, as Qwen3-Coder writes it. Pure.

    <function=NAME>
    <parameter=KEY>
    VALUE, on as many lines as it takes
    </parameter>
    </function>

A value is text; what type it is meant to have is in the tool's parameters. Whoever reads a call as it is written
(xml_arguments.py) cannot look ahead without end: a key and the white space after a value have their limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from quant.json_file import refuse_constant
from qwenctl.services.tools.tool_call import ToolCall

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>")
FUNCTION_END = re.compile(r"\s*</function>\s*")
PARAMETER = re.compile(r"\s*<parameter=([^>\n]{1,999})>\n?")
VALUE_END = re.compile(r"\n?</parameter>(?=\s{0,40}(?:<parameter=|</function>))")
LENIENT_END = re.compile(r"\n?</parameter>|\s*(?=<parameter=[^>\n]{1,999}>|</function>)|\s*\Z")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "none": None}


def read_xml_call(body: str, tools: Sequence[Mapping[str, Any]], *, lenient: bool = False) -> ToolCall | None:
    """Return the call that `body` writes; None: it is none.

    Args:
        tools: in OpenAI's form; their parameters say of what type a value is.
        lenient: take a call whose closing tags are missing: nothing more will come.
    """
    function = _FUNCTION.match(body)
    if not function:
        return None
    name, at = function[1].strip(), function.end()
    types = parameter_types(tools, name)
    arguments: dict[str, Any] = {}
    while parameter := PARAMETER.match(body, at):
        end = VALUE_END.search(body, parameter.end())
        if end is None and lenient:
            end = LENIENT_END.search(body, parameter.end())
        if end is None:
            return None
        key = parameter[1].strip()
        arguments[key] = typed_value(body[parameter.end() : end.start()], types.get(key, frozenset()))
        at = end.end()
    ended = FUNCTION_END.match(body, at)
    complete = bool(ended) and not body[ended.end() :].strip() if ended else lenient and not body[at:].strip()
    return ToolCall(name, arguments) if complete else None


def parameter_types(tools: Sequence[Mapping[str, Any]], name: str) -> dict[str, frozenset[str]]:
    """Return the types that a tool's parameters may have; nothing for those of which it does not say so plainly."""
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            properties = (function.get("parameters") or {}).get("properties")
            return {key: _named(schema) for key, schema in properties.items()} if isinstance(properties, dict) else {}
    return {}


def _named(schema: Any) -> frozenset[str]:
    """The types that a schema names. Where calls are the model's choice, nobody has checked that it is one."""
    if not isinstance(schema, dict):
        return frozenset()
    options = [option for keyword in ("anyOf", "oneOf") for option in _listed(schema.get(keyword))]
    if options:
        return frozenset().union(*map(_named, options))
    kind = schema.get("type")
    return frozenset(one for one in (kind, *_listed(kind)) if isinstance(one, str))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_text(types: frozenset[str]) -> bool:
    """Whether a value of these types can be nothing but text."""
    return not types or types == {"string"}


def typed_value(text: str, types: frozenset[str]) -> Any:
    """Return `text` as the first of its types that it can be: text last."""
    if is_text(types):
        return text
    stripped = text.strip()
    word = stripped.lower()
    if word in _WORDS and types & ({"null"} if _WORDS[word] is None else {"boolean"}):
        return _WORDS[word]
    try:
        value = json.loads(stripped, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return text
    kinds = {dict: {"object"}, list: {"array"}, int: {"integer", "number"}, float: {"number", "integer"}}
    return value if types & kinds.get(type(value), set()) else text
