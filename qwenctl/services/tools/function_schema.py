"""The JSON schema of a Python function's parameters: from annotations, defaults and the docstring. Pure.

Runs in the child that holds the user's functions (python_tool_worker.py): imports nothing of ours.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

_TYPES: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ARGUMENT = re.compile(r"^\s{1,12}(\w+)(?:\s*\([^)]*\))?:\s*(.+)$")
_HEADING = re.compile(r"^(Args|Arguments|Parameters):\s*$")


def describe_function(function: Callable[..., Any]) -> dict[str, Any]:
    """Return name, description and parameters of `function`.

    Raises:
        ValueError: it takes parameters that cannot be given by name.
    """
    description, said = _docstring(inspect.getdoc(function) or "")
    hints = _hints(function)
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"{function.__name__} takes {parameter}, which cannot be given by name")
        schema = _schema(hints.get(name, Any))
        if name in said:
            schema["description"] = said[name]
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, str | int | float | bool):
            schema["default"] = parameter.default
        properties[name] = schema
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": function.__name__, "description": description, "parameters": parameters}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation that names what is not there says nothing
        return {}


def _schema(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    schema: dict[str, Any] = {"type": _TYPES[origin]} if origin in _TYPES else {}
    if origin is typing.Annotated:
        texts = [one for one in arguments[1:] if isinstance(one, str)]
        schema = _schema(arguments[0]) | ({"description": texts[0]} if texts else {})
    elif origin is typing.Literal:
        schema = {"enum": list(arguments)}
    elif origin in (typing.Union, types.UnionType):
        schema = {"anyOf": [_schema(one) for one in arguments]}
    elif origin is list:
        schema = {"type": "array", **({"items": _schema(arguments[0])} if arguments else {})}
    elif origin is dict:
        schema = {"type": "object", **({"additionalProperties": _schema(arguments[1])} if len(arguments) > 1 else {})}
    return schema


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The part before the first section, and what its section of arguments says of each."""
    lines = text.splitlines()
    begin = next((n for n, line in enumerate(lines) if _HEADING.match(line)), None)
    said: dict[str, str] = {}
    if begin is not None:
        for line in lines[begin + 1 :]:
            if line and not line[0].isspace():
                break
            if match := _ARGUMENT.match(line):
                said[match[1]] = match[2].strip()
    end = next((n for n, line in enumerate(lines) if re.match(r"^[A-Z]\w+:\s*$", line)), len(lines))
    return " ".join("\n".join(lines[:end]).split()), said
