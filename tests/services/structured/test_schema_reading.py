"""What a user may type for a schema: a file, JSON, the short form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.schema_dsl import parse_schema_dsl
from qwenctl.services.structured.schema_reading import read_schema


def fields(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return properties and required names, after a look at the rest."""
    schema = parse_schema_dsl(text)
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    return schema["properties"], schema["required"]


def test_types() -> None:
    properties, required = fields("name, age int, ratio float, ok bool, bio str, tags str[], ids int[]")
    assert properties == {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "ratio": {"type": "number"},
        "ok": {"type": "boolean"},
        "bio": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "ids": {"type": "array", "items": {"type": "integer"}},
    }
    assert required == list(properties)


def test_lines_descriptions_and_what_may_be_left_out() -> None:
    properties, required = fields("\n name: first name, then last\n age? int: in years,\n\n größe float\n")
    assert properties["name"] == {"type": "string", "description": "first name, then last"}
    assert properties["age"] == {"type": "integer", "description": "in years"}
    assert required == ["name", "größe"]


@pytest.mark.parametrize("text", ["", " , ", "age integer", "a b c", "tags str[", "a, a", "int[]", ": what"])
def test_what_is_no_short_form(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_schema_dsl(text)


def test_a_file_and_json(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('\ufeff{"type": "null"}')
    assert read_schema(str(path)) == {"type": "null"}
    assert read_schema(' {"type": "null"}') == {"type": "null"}
    assert read_schema("age int") == parse_schema_dsl("age int")
    assert read_schema("a" * 5000)["required"] == ["a" * 5000]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("missing.json", "No such file"),
        ("{", "the schema is not JSON"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_schema(text)
    assert words in caught.value.message


def test_files_that_are_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(b"\xff{}")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_schema(str(path))
    path.write_bytes(b" " * 200_000)
    with pytest.raises(InvalidRequest, match="longer than"):
        read_schema(str(path))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_schema(str(tmp_path / "x" / "y.json"))
