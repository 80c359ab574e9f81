"""Whether an answer is what its schema asked for. Pure but for the import of jsonschema (value_check.py)."""

from __future__ import annotations

import json
from typing import Any

from qwenctl.services.structured.plain_schema import plain_schema
from qwenctl.services.structured.value_check import ValueCheck


def validate_answer(schema: Any, text: str) -> list[str]:
    """Return what is wrong with the answer `text`, one sentence each; empty: it is JSON that satisfies `schema`.

    Raises:
        InvalidRequest: `schema` is none, or the check takes too long.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        return ["the answer is nested too deeply"]
    except ValueError as error:
        return [f"the answer is not JSON: {error}"]
    return ValueCheck(plain_schema(schema).document).failures(value)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
