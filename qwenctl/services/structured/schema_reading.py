"""A JSON schema from what a user typed: a file's name, JSON, or the short form (schema_dsl.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.plain_schema import MAX_BYTES
from qwenctl.services.structured.schema_dsl import parse_schema_dsl


def read_schema(text: str) -> Any:
    """Return the schema that `text` is or names.

    What begins with { is JSON; what names a file, or ends in .json, is a file; all else is the short form.

    Raises:
        InvalidRequest: none of them, or a file that cannot be read.
    """
    if text.lstrip().startswith("{"):
        return _parse(text, "the schema")
    path = Path(text)
    if text.endswith(".json") or _is_file(path):
        return _parse(_read(path), str(path))
    return parse_schema_dsl(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"the schema {path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{path} is longer than {MAX_BYTES >> 10} KiB, too long for a schema")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8, so no schema") from error


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InvalidRequest(f"{name} is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"{name} is not JSON: {error}") from error
