"""The form that an answer must have: OpenAI's `response_format`, as a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.services.api.body_fields import BadRequest, read_mapping, shown
from qwenctl.services.structured.answer_grammar import ANY_OBJECT


def read_answer_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the JSON schema of the answer, None for plain text.

    Raises:
        BadRequest: another form, or a schema that is no object.
    """
    given = read_mapping(body, "response_format")
    kind = given.get("type")
    if not given or kind == "text":
        return None
    if kind == "json_object":
        schema = given.get("schema")  # llama.cpp's server takes one here
        return ANY_OBJECT if schema is None else _checked(schema)
    if kind == "json_schema":
        holder = given.get("json_schema")
        return _checked(holder.get("schema") if isinstance(holder, dict) else None)
    what = '\'response_format\' must be of the type "text", "json_object" or "json_schema"'
    raise BadRequest(f"{what}, not {shown(kind)}", "response_format.type")


def _checked(schema: Any) -> Mapping[str, Any]:
    if not isinstance(schema, dict):
        raise BadRequest("'response_format' has no schema that is an object", "response_format.json_schema.schema")
    return schema
