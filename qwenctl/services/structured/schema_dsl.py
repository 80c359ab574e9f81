"""A short way to write the schema of a flat object, after the one of `llm`: "name, age int, tags str[]". Pure.

fields   separated by commas, or one a line if there are several lines
field    NAME[?] [TYPE[[]]] [: DESCRIPTION]      `?`: may be left out; a description may hold commas on a line
TYPE     str (when none is given), int, float, bool
"""

from __future__ import annotations

import re
from typing import Any

from qwenctl.errors import InvalidRequest

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_FIELD = re.compile(
    r"(?P<name>[^\s:,?\[\]]+)(?P<optional>\?)?(?:\s+(?P<type>[A-Za-z]+)(?P<list>\[\])?)?\s*(?::(?P<said>.*))?"
)
_HINT = 'write it as "name, age int, tags str[], email?: where to write to", as JSON, or name a file'


def parse_schema_dsl(text: str) -> dict[str, Any]:
    """Return the JSON schema of an object with the fields that `text` names, and no others.

    Raises:
        InvalidRequest: `text` is not of this form, or names a field twice or no field.
    """
    lines = text.strip().splitlines()
    fields = [part.strip() for part in (lines if len(lines) > 1 else text.split(","))]
    properties: dict[str, Any] = {}
    required = []
    for field in filter(None, fields):
        match = _FIELD.fullmatch(field.rstrip(",").rstrip())
        if not match or (match["type"] and match["type"] not in _TYPES):
            raise InvalidRequest(f"{field!r} describes no field of a schema", _HINT)
        if match["name"] in properties:
            raise InvalidRequest(f"the schema names {match['name']!r} twice")
        properties[match["name"]] = _schema(match)
        if not match["optional"]:
            required.append(match["name"])
    if not properties:
        raise InvalidRequest("the schema is empty", _HINT)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(match: re.Match[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[match["type"] or "str"]}
    if match["list"]:
        schema = {"type": "array", "items": schema}
    said = (match["said"] or "").strip()
    return {**schema, "description": said} if said else schema
