"""A JSON schema as it came, read into one plain form, or refused with the place of the fault. Pure.

Plain means: every subschema is True, False or a mapping of keywords that are known and well-formed; `$ref`s point to
`#/$defs/<name>`, where everything that is referred to lies; what older drafts and OpenAPI write in other ways
(`nullable`, lists in `items`, `additionalItems`, true in `exclusiveMinimum`) is written as draft 2020-12 does.
Annotations and unknown keywords are left out: they change no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from urllib.parse import unquote

from qwenctl.errors import InvalidRequest

MAX_BYTES = 128 << 10
MAX_DEPTH = 64
MAX_COUNT = 10_000  # of items, properties and characters that a grammar counts
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

Schema = Any  # True, False or a mapping

_ONE = frozenset(
    {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
_COUNTS = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_TEXTS = frozenset({"pattern", "format"})
_REFUSED = frozenset({"$dynamicRef", "$recursiveRef"})


@dataclass(frozen=True, slots=True)
class PlainSchema:
    """A schema that can be relied on."""

    root: Schema
    definitions: Mapping[str, Schema] = field(default_factory=dict)

    def target(self, reference: str) -> Schema:
        """Return what a `$ref` points to."""
        return self.definitions[reference.removeprefix("#/$defs/")]

    @property
    def document(self) -> Mapping[str, Any]:
        """The whole as one JSON schema of draft 2020-12."""
        root = {"allOf": [self.root]} if isinstance(self.root, bool) else self.root
        return {**root, "$defs": dict(self.definitions)}


def plain_schema(schema: Any) -> PlainSchema:
    """Return `schema` in its plain form.

    Raises:
        InvalidRequest: it is too large, no JSON schema, or uses what is not supported; the message says where.
    """
    if not isinstance(schema, Mapping | bool):
        raise InvalidRequest(f"a JSON schema is an object, not {_kind(schema)}")
    _check_size(schema)
    reader = _Reader(schema)
    root = reader.read(schema, "#")
    while reader.waiting:
        name, pointer = reader.waiting.pop()
        reader.definitions[name] = reader.read(reader.find(pointer), pointer)
    return PlainSchema(root, reader.definitions)


class _Reader:
    def __init__(self, document: Any) -> None:
        self.definitions: dict[str, Schema] = {}
        self.waiting: list[tuple[str, str]] = []
        self._document = document
        self._names: dict[str, str] = {}

    def read(self, schema: Any, place: str) -> Schema:
        """Return the plain form of the subschema at `place`."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise InvalidRequest(f"the schema at {place} is {_kind(schema)}, not an object")
        plain: dict[str, Any] = {}
        for keyword, value in _modern(schema).items():
            at = f"{place}/{keyword}"
            if keyword in _ONE:
                plain[keyword] = self.read(value, at)
            elif keyword in _MANY:
                plain[keyword] = [self.read(one, f"{at}/{n}") for n, one in enumerate(_expect(value, list, at))]
            elif keyword in _NAMED:
                plain[keyword] = {
                    name: self.read(one, f"{at}/{name}") for name, one in _expect(value, dict, at).items()
                }
            elif keyword == "$ref":
                plain[keyword] = self._reference(value, at)
            elif keyword in _REFUSED:
                raise InvalidRequest(f"{keyword} at {place} is not supported", "write the schema with $ref")
            elif keyword in _CHECKS:
                _CHECKS[keyword](value, at)
                plain[keyword] = value
        return plain

    def find(self, pointer: str) -> Any:
        """Return what lies at a JSON pointer of the document."""
        found = self._document
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise InvalidRequest(f"the schema refers to {pointer[:100]}, which is not in it")
        return found

    def _reference(self, value: Any, place: str) -> str:
        pointer = str(_expect(value, str, place))
        if pointer != "#" and not pointer.startswith("#/"):
            raise InvalidRequest(
                f"$ref at {place.removesuffix('/$ref')} points to {pointer[:100]!r}; only #/… is followed",
                "put what it refers to under $defs",
            )
        if pointer not in self._names:
            name = re.sub("[^A-Za-z0-9_-]", "-", pointer.rpartition("/")[2]) or "root"
            name = name if name not in self._names.values() else f"{name}.{len(self._names)}"
            self._names[pointer] = name
            self.waiting.append((name, pointer))
        return f"#/$defs/{self._names[pointer]}"


def _modern(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `schema` with what older drafts and OpenAPI 3.0 say in the words of draft 2020-12."""
    new = dict(schema)
    if isinstance(new.get("items"), list):
        new["prefixItems"] = new.pop("items")
        if "additionalItems" in new:
            new["items"] = new.pop("additionalItems")
    for limit, excluded in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(new.get(excluded), bool) and new.pop(excluded) and limit in new:
            new[excluded] = new.pop(limit)
    if new.get("nullable") is True and "type" in new:
        kinds = new["type"] if isinstance(new["type"], list) else [new["type"]]
        new["type"] = [*kinds, *([] if "null" in kinds else ["null"])]
        if isinstance(new.get("enum"), list) and None not in new["enum"]:
            new["enum"] = [*new["enum"], None]
    return new


def _check_size(schema: Any) -> None:
    """Measure without recursion: json's own would overflow on what is nested very deeply."""
    todo: list[tuple[Any, int]] = [(schema, 0)]
    n_values = 0
    while todo:
        value, depth = todo.pop()
        n_values += 1
        if depth > MAX_DEPTH * 2 or n_values > MAX_BYTES:
            raise InvalidRequest(f"the schema is nested more than {MAX_DEPTH * 2} levels deep, or too large")
        children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        todo += [(child, depth + 1) for child in children]
    try:  # also refuses numbers of more than 4,300 digits
        n_bytes = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise InvalidRequest(f"the schema is not JSON: {error}") from error
    if n_bytes > MAX_BYTES:
        raise InvalidRequest(f"the schema is {n_bytes:,} bytes long; at most {MAX_BYTES:,} are taken")


def _check_type(value: Any, place: str) -> None:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            raise InvalidRequest(f"{place} is {_short(name)}; the types are {', '.join(TYPES)}")
    if not names:
        raise InvalidRequest(f"{place} names no type")


def _check_count(value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise InvalidRequest(f"{place} is {_short(value)}, not a whole number from 0")


def _check_number(value: Any, place: str) -> None:
    is_number = isinstance(value, int) or (isinstance(value, float) and isfinite(value))
    if not is_number or isinstance(value, bool):
        raise InvalidRequest(f"{place} is {_short(value)}, not a number")
    if place.endswith("/multipleOf") and value <= 0:
        raise InvalidRequest(f"{place} is {_short(value)}; it must be above 0")


def _check_text(value: Any, place: str) -> None:
    _expect(value, str, place)


def _check_values(value: Any, place: str) -> None:
    if not _expect(value, list, place):
        raise InvalidRequest(f"{place} allows no value")


def _check_names(value: Any, place: str) -> None:
    for name in _expect(value, list, place):
        _expect(name, str, place)


def _check_dependencies(value: Any, place: str) -> None:
    for name, names in _expect(value, dict, place).items():
        _check_names(names, f"{place}/{name}")


def _check_nothing(value: Any, place: str) -> None:
    del value, place


def _checks(names: Iterable[str], check: Callable[[Any, str], None]) -> dict[str, Callable[[Any, str], None]]:
    return dict.fromkeys(names, check)


_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    **_checks(_COUNTS, _check_count),
    **_checks(_NUMBERS, _check_number),
    **_checks(_TEXTS, _check_text),
    "type": _check_type,
    "enum": _check_values,
    "required": _check_names,
    "dependentRequired": _check_dependencies,
    "const": _check_nothing,
    "uniqueItems": _check_nothing,
}


def _expect(value: Any, kind: type, place: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidRequest(f"{place} is {_kind(value)}, not {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {list: "a list", dict: "an object", str: "text"}


def _kind(value: Any) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
