"""Fields of a JSON body, read one by one with their kind checked; and JSON itself, with its nesting limited.

A missing field and null mean the same: the default. Knows no field by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwenctl.errors import InvalidRequest

MAX_NESTING = 100  # far below what any JSON code of ours or a template can digest


class BadRequest(InvalidRequest):
    """A body that cannot be answered.

    Args:
        message: one line.
        param: the field to blame, as OpenAI's errors name it: "messages[2].content"; None: the body as a whole.
        code: OpenAI's short name of the error, where it has one.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def parse_json(data: bytes) -> Any:
    """Return the value that `data` writes.

    Raises:
        BadRequest: not UTF-8, no JSON, NaN or infinity in it, or nested more than `MAX_NESTING` deep.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BadRequest(f"not UTF-8: byte {error.start + 1}") from error
    except RecursionError:
        is_deep = True
    except ValueError as error:
        raise BadRequest(f"not JSON: {error}") from error
    else:
        is_deep = _is_deep(value, MAX_NESTING)
    if is_deep:
        raise BadRequest(f"nested more than {MAX_NESTING} levels deep")
    return value


def read_object(value: Any, what: str = "the body") -> Mapping[str, Any]:
    """Return `value` if it is an object."""
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object")
    return value


def read_text(body: Mapping[str, Any], name: str) -> str | None:
    """Return text."""
    value: str | None = _read(body, name, (str,), "text")
    return value


def read_flag(body: Mapping[str, Any], name: str) -> bool | None:
    """Return true or false."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false", name)
    return value


def read_number(body: Mapping[str, Any], name: str) -> float | None:
    """Return a number; a whole one as it is."""
    value: float | None = _read(body, name, (int, float), "a number")
    return value


def read_whole_number(body: Mapping[str, Any], name: str, low: int, high: int | None = None) -> int | None:
    """Return a whole number from `low` to `high`."""
    expected = f"a whole number from {low}" + (f" to {high}" if high is not None else "")
    value: int | None = _read(body, name, (int,), expected)
    if value is not None and (value < low or (high is not None and value > high)):
        raise BadRequest(f"'{name}' must be {expected}", name)
    return value


def read_choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    """Return one of `choices`."""
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise BadRequest(f"'{name}' must be one of {', '.join(choices)}", name)
    return value


def read_mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object, {} where there is none."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"'{name}' must be an object", name)
    return value or {}


def read_texts(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Return text or a list of at most `most` texts, none of them empty, as a tuple."""
    value = body.get(name)
    texts = [] if value is None else value if isinstance(value, list) else [value]
    if len(texts) > most or any(not isinstance(text, str) or not text or not is_unicode(text) for text in texts):
        raise BadRequest(f"'{name}' must be text or a list of at most {most} texts", name)
    return tuple(texts)


def is_unicode(text: str) -> bool:
    """Tell whether `text` can be written as UTF-8: JSON's escapes allow half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """Return `value` as JSON, for a message, at most 80 characters."""
    return json.dumps(value)[:80]


def _read(body: Mapping[str, Any], name: str, kinds: tuple[type, ...], expected: str) -> Any:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise BadRequest(f"'{name}' must be {expected}", name)
    if isinstance(value, str) and not is_unicode(value):
        raise BadRequest(f"'{name}' holds half of a surrogate pair, which is no text", name)
    return value


def _is_deep(value: Any, levels: int) -> bool:
    """Level by level: as quick as Python can for two million values, and no recursion."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
