"""A call in Hermes' format, as Qwen3 writes it: `{"name": …, "arguments": {…}}` between `<tool_call>` tags. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from quant.json_file import refuse_constant
from qwenctl.services.tools.tool_call import ToolCall

_DECODER = json.JSONDecoder(strict=False, parse_constant=refuse_constant)  # models put raw line breaks into strings
_ESCAPE = re.compile(r"\\.", re.DOTALL)


def read_hermes_call(body: str) -> ToolCall | None:
    """Return the call that `body`, the text between the tags, writes; None: it is none.

    Arguments that are an object in a string, or called `parameters`, or missing are taken; so is a brace too many.
    """
    value = _decoded(body)
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or not name:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _decoded(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    return ToolCall(name, arguments) if isinstance(arguments, dict) else None


def ends_in_string(json_text: str) -> bool:
    """Whether JSON that is cut off after `json_text` is cut within a string."""
    return _ESCAPE.sub("", json_text).count('"') % 2 == 1


def _decoded(text: str) -> Any:
    text = text.strip()
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if not text[end:].strip("} \n\t\r") else None
