"""Read a JSON object from a file that nobody vouches for: bounded, strict, and never a traceback.

Stricter than `json.loads`, because two parsers that disagree about a file are a hole: duplicate keys, NaN and Infinity,
numbers that overflow to infinity, lone surrogates and a byte order mark are refused.
Knows nothing of what the object means.
"""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from quant.errors import JsonFileError
from quant.shown import shown

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Return the object that the file holds.

    Args:
        path: the file; symbolic links are followed.
        max_bytes: longer files are refused before they are read.

    Raises:
        JsonFileError: missing, not a regular file, unreadable, too long, or not a strict JSON object.
    """
    try:
        data = _read_bounded(path, max_bytes)
        return parse_json_object(data)
    except OSError as error:
        raise JsonFileError(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise JsonFileError(path, str(error)) from error


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Return the object that `data` holds.

    Raises:
        ValueError: not UTF-8, not JSON, or JSON that strict parsers refuse; the message is one line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("not acceptable JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {_kind(value)} where an object must be")
    if _SURROGATE_ESCAPE.search(text):
        _refuse_lone_surrogates(value)
    return value


def _read_bounded(path: Path, max_bytes: int) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"longer than the {max_bytes:,} bytes allowed for it")
    return data


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(repeated)} appears twice in one object")
    return result


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's decoder takes: for its `parse_constant`.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} does not fit a double")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        found = ord(error.object[error.start])
        raise ValueError(f"a string holds the lone surrogate \\u{found:04x}, which is not a character") from None


def _kind(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
