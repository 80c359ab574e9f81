"""Whether a JSON value satisfies a plain schema: jsonschema's judgement, with patterns and formats by our automata.

Bounded: schemas that refer to themselves in twos would otherwise keep it busy for years. Nothing is fetched: a plain
schema refers to nothing outside.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from math import isfinite
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import Automaton, Budget
from qwenctl.services.structured.regex_automaton import pattern_automaton
from qwenctl.services.structured.string_formats import FORMATS

_MAX_STEPS = 200_000  # keywords looked at
_MAX_FAILURES = 20
_MAX_CHARACTERS = 300  # of a sentence

_Check = Callable[[Any, Any, Any, Any], Iterator[Any]]


class ValueCheck:
    """Checks values against one schema, a bounded number of steps in all.

    Args:
        document: a schema in plain form (plain_schema.py).
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator, validators  # noqa: PLC0415  80 ms that only schemas need pay
        from referencing import Registry  # noqa: PLC0415

        checks = _Checks(dict(Draft202012Validator.VALIDATORS), document.get("$defs", {}))
        extend: Callable[..., Any] = validators.extend
        self._validator = extend(Draft202012Validator, checks.table)(dict(document), registry=Registry())

    def failures(self, value: Any) -> list[str]:
        """Return what is wrong with `value`, one sentence each with the place first; empty: it satisfies the schema.

        Raises:
            InvalidRequest: the check takes too long, or a pattern is refused.
        """
        try:
            errors = [error for error, _ in zip(self._validator.iter_errors(value), range(_MAX_FAILURES), strict=False)]
        except RecursionError as error:
            raise InvalidRequest("the schema or the answer is nested too deeply to be checked") from error
        return [_sentence(error.json_path, error.message) for error in errors]


class _Checks:
    """jsonschema's table of keywords with ours in place of some, and all of them counted."""

    def __init__(self, theirs: Mapping[str, _Check], definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._n_steps = 0
        self._budget = Budget()
        self._automata: dict[str, Automaton] = {}
        ours = {"pattern": self._pattern, "format": self._format, "multipleOf": _multiple_of}
        ours |= {"patternProperties": self._pattern_properties, "uniqueItems": _unique_items}
        self.table = {keyword: partial(self._counted, check) for keyword, check in {**theirs, **ours}.items()}
        self._additional, self._unevaluated = theirs["additionalProperties"], theirs["unevaluatedProperties"]
        self.table["additionalProperties"] = partial(self._counted, self._additional_properties)
        self.table["unevaluatedProperties"] = partial(self._counted, self._unevaluated_properties)

    def _counted(self, check: _Check, validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        self._n_steps += 1 + (len(value) // 8 if isinstance(value, list | dict) else 0)
        if self._n_steps > _MAX_STEPS:
            raise InvalidRequest("the answer cannot be checked in reasonable time: simplify the schema")
        return check(validator, value, instance, schema) or iter(())

    def _automaton(self, pattern: str) -> Automaton:
        if pattern not in self._automata:
            self._automata[pattern] = pattern_automaton(pattern, self._budget)
        return self._automata[pattern]

    def _pattern(self, validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
        del validator, schema
        if isinstance(instance, str) and not self._automaton(pattern).matches(instance):
            yield _failure(f"{instance!r} does not match the pattern {pattern!r}")

    def _format(self, validator: Any, name: str, instance: Any, schema: Any) -> Iterator[Any]:
        del validator, schema
        if isinstance(instance, str) and name in FORMATS and not self._automaton(FORMATS[name]).matches(instance):
            yield _failure(f"{instance!r} is no {name}")

    def _pattern_properties(self, validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
        del schema
        for pattern, inner in patterns.items() if isinstance(instance, dict) else ():
            for name, value in instance.items():
                if self._automaton(pattern).matches(name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)

    def _additional_properties(self, validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        """Names that match a pattern of the same schema are none of its business."""
        if not isinstance(instance, dict):
            return
        automata = [self._automaton(pattern) for pattern in schema.get("patternProperties", {})]
        plain = {name: value for name, value in instance.items() if not any(one.matches(name) for one in automata)}
        without = {keyword: value for keyword, value in schema.items() if keyword != "patternProperties"}
        yield from self._additional(validator, rule, plain, without)

    def _unevaluated_properties(self, validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        """Their own matches names against `patternProperties` with Python's `re`, which may backtrack for ever."""
        if not isinstance(instance, dict):
            return
        others = {keyword: value for keyword, value in schema.items() if keyword != "unevaluatedProperties"}
        known = self._evaluated(validator, instance, others)
        rest = {name: value for name, value in instance.items() if name not in known}
        yield from self._unevaluated(validator, rule, rest, {})

    def _evaluated(self, validator: Any, instance: Mapping[str, Any], schema: Any) -> set[str]:
        """The names that `schema`, which `instance` satisfies, says something of (draft 2020-12 core, section 11.3)."""
        if isinstance(schema, bool):
            return set()
        if "additionalProperties" in schema or "unevaluatedProperties" in schema:
            return set(instance)
        automata = [self._automaton(pattern) for pattern in schema.get("patternProperties", {})]
        known = {name for name in instance if any(one.matches(name) for one in automata)}
        known |= instance.keys() & schema.get("properties", {}).keys()
        for inner in self._in_place(validator, instance, schema):
            if validator.evolve(schema=inner).is_valid(instance):
                known |= self._evaluated(validator, instance, inner)
        return known

    def _in_place(self, validator: Any, instance: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Any]:
        """The schemas within `schema` that are about the same value."""
        if "$ref" in schema:
            yield self._definitions[schema["$ref"].removeprefix("#/$defs/")]
        for keyword in ("allOf", "anyOf", "oneOf"):
            yield from schema.get(keyword, [])
        yield from (inner for name, inner in schema.get("dependentSchemas", {}).items() if name in instance)
        if "if" in schema:
            holds = validator.evolve(schema=schema["if"]).is_valid(instance)
            yield from (schema[one] for one in (("if", "then") if holds else ("else",)) if one in schema)


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Exactly, as it is written: 19.99 is a multiple of 0.01, which binary fractions do not find."""
    del validator, schema
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    if not isfinite(instance) or Fraction(repr(instance)) % Fraction(repr(step)):  # 1e999 is read as infinite
        yield _failure(f"{instance} is not a multiple of {step}")


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """By hash: jsonschema compares what cannot be sorted in pairs, which takes minutes for some thousand objects."""
    del validator, schema
    if wanted and isinstance(instance, list) and len({hashable(one) for one in instance}) < len(instance):
        yield _failure(f"{instance!r} has non-unique elements")


def hashable(value: Any) -> Hashable:
    """Return what is equal for equal JSON values only: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, dict):
        return dict, frozenset((name, hashable(one)) for name, one in value.items())
    if isinstance(value, list):
        return list, tuple(map(hashable, value))
    return (bool, value) if isinstance(value, bool) else value


def _failure(message: str) -> Any:
    from jsonschema import ValidationError  # noqa: PLC0415

    return ValidationError(message)


def _sentence(place: str, message: str) -> str:
    text = f"{place}: {message}".replace("\n", " ")
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"
