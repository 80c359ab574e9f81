"""Typed, bounded access to the fields of a JSON object that nobody vouches for. Knows nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quant.errors import JsonFileError
from quant.shown import shown


class JsonFields:
    """The fields of one object in `path`. A field that is null counts as missing, as transformers has it."""

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    def refuse(self, key: str, detail: str) -> JsonFileError:
        """Return the error to raise about `key`."""
        return JsonFileError(self.path, f"{self._prefix}{key} {detail}")

    def has(self, key: str) -> bool:
        """Tell whether the field is there and not null."""
        return self._values.get(key) is not None

    def raw(self, key: str) -> Any:
        """Return the field as parsed, None where it is missing."""
        return self._values.get(key)

    def names(self) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(self._values)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer between `low` and `high`; without a default it must be there.

        Raises:
            JsonFileError: missing, of another type, or out of bounds.
        """
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, f"must be an integer, not {shown(value)}")
        if not low <= value <= high:
            raise self.refuse(key, f"must lie between {low} and {high}, not {shown(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a finite number between `low` and `high`; without a default it must be there.

        Raises:
            JsonFileError: missing, of another type, or out of bounds.
        """
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(key, f"must be a number, not {shown(value)}")
        if not (math.isfinite(value) and low <= value <= high):
            raise self.refuse(key, f"must lie between {low:g} and {high:g}, not {shown(value)}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false.

        Raises:
            JsonFileError: of another type.
        """
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, f"must be true or false, not {shown(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; without a default it must be there.

        Raises:
            JsonFileError: missing or of another type.
        """
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, f"must be a string, not {shown(value)}")
        return value

    def children(self, key: str) -> list[JsonFields]:
        """Return the objects of an array, none where it is missing.

        Raises:
            JsonFileError: not an array of objects.
        """
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.refuse(key, "must be an array of objects")
        return [JsonFields(self.path, entry, f"{self._prefix}{key}[{i}].") for i, entry in enumerate(value)]

    def child(self, key: str) -> JsonFields:
        """Return the fields of an object; an empty one where it is missing.

        Raises:
            JsonFileError: not an object.
        """
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.refuse(key, f"must be an object, not {shown(value)}")
        return JsonFields(self.path, value, f"{self._prefix}{key}.")

    def _value(self, key: str, default: object) -> Any:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.refuse(key, "is missing")
        return value
