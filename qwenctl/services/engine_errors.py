"""Errors on their way from the engine's process to its parent: the same class arrives, with the same words and numbers.

An error of either tree (qwenctl/errors.py, quant/errors.py) is sent as the name of its class and its attributes. What
is none of them is a bug: it arrives as a `RuntimeError` with the traceback of the other side in its text.
"""

from __future__ import annotations

import traceback
from functools import cache
from pathlib import Path
from typing import Any

from quant.errors import QuantError
from qwenctl.errors import QwenctlError
from qwenctl.services.engine_messages import MessageError

_PLAIN_CLASSES: tuple[type[Exception], ...] = (AssertionError, MemoryError)


def encode_error(error: BaseException) -> dict[str, Any]:
    """Return `error` as values of JSON."""
    if isinstance(error, QwenctlError | QuantError) and type(error).__name__ in _classes():
        attributes = {name: _encode_attribute(value) for name, value in vars(error).items()}
        return {"class": type(error).__name__, "attributes": attributes}
    if type(error) in _PLAIN_CLASSES:
        return {"class": type(error).__name__, "text": str(error)}
    return {"class": "RuntimeError", "text": "".join(traceback.format_exception(error))}


def decode_error(value: Any) -> Exception:
    """Return the error that `encode_error` was given.

    Raises:
        MessageError: `value` is not what it makes.
    """
    if not isinstance(value, dict):
        raise MessageError("an error that is no object")
    name, text, attributes = value.get("class"), value.get("text"), value.get("attributes")
    if isinstance(text, str):
        plain = next((one for one in _PLAIN_CLASSES if one.__name__ == name), RuntimeError)
        return plain(text)
    known = _classes().get(name) if isinstance(name, str) else None
    if known is None or not isinstance(attributes, dict) or not isinstance(attributes.get("message"), str):
        raise MessageError(f"an error of an unknown kind: {name!r}")
    error = known.__new__(known)  # constructors differ from class to class; what they leave behind does not
    Exception.__init__(error, attributes["message"])
    for attribute, content in attributes.items():
        setattr(error, attribute, _decode_attribute(content))
    return error


@cache
def _classes() -> dict[str, type[QwenctlError | QuantError]]:
    found: dict[str, type[QwenctlError | QuantError]] = {}
    waiting: list[type[Any]] = [QwenctlError, QuantError]
    while waiting:
        one = waiting.pop()
        found[one.__name__] = one
        waiting += one.__subclasses__()
    return found


def _encode_attribute(value: object) -> object:
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, tuple | list):
        return [_encode_attribute(item) for item in value]
    return value if isinstance(value, int | float | str | None) else str(value)


def _decode_attribute(value: object) -> object:
    if isinstance(value, dict):
        return Path(str(value.get("path")))
    if isinstance(value, list):
        return tuple(_decode_attribute(item) for item in value)
    return value
