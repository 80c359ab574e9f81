"""Schemas as grammars, judged by llama.cpp's own parser: what is accepted, what is refused, what can be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.answer_grammar import answer_grammar
from qwenctl.services.structured.answer_validation import validate_answer
from tests.services.structured.native_grammar import Job, Verdict, judge

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": ["string", "null"]},
    },
    "required": ["name", "age"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
}
ENDLESS = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}

NESTED = {
    "anyOf": [
        {"type": "object", "properties": {"k": {"$ref": "#"}, "x": {"type": "null"}}, "required": ["k", "x"]},
        {"type": "object", "properties": {"k": {"$ref": "#"}, "y": {"type": "null"}}, "required": ["k", "y"]},
        {"type": "integer"},
    ]
}

RARE = {"long lengths", "pattern somewhere"}  # random tokens do not come to their end

# schema, texts that the grammar must accept, texts that it must not
CASES: dict[str, tuple[Any, list[str], list[str]]] = {
    "object": (
        PERSON,
        ['{"name": "Ann", "age": 7}', '{"name":"Ann","age":120,"email":null}', '{\n  "name": "A",\n  "age": 0\n}'],
        [
            *("{}", "", '{"age": 7, "name": "Ann"}', '{"name": "", "age": 7}', '{"name": "A", "age": 121}'),
            *('{"name": "A"}', '{"name": "A", "age": 07}', '{"name": "A", "age": 7, "x": 1}'),
            *('{"name":  "A", "age": 7}', "{" + " " * 40),
        ],
    ),
    "optional only": (
        {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}},
        ["{}", '{"a":null}', '{"b":null}', '{"a":null,"c":null}', '{"a":null,"b":null,"c":null}'],
        ['{"b":null,"a":null}', '{,"a":null}', '{"a":null,}', '{"d":null}'],
    ),
    "free names": (
        {"properties": {"id": {"type": "integer"}}, "type": "object", "additionalProperties": {"type": "boolean"}},
        ['{"id": 1}', '{"id": 1, "x": true}', '{"i": true}', '{"idx": false}', '{"": true}', '{"\\"": true}'],
        ['{"id": true}', '{"x": 1}', '{"x": true, "id": 1}'],
    ),
    "name patterns": (
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        ["{}", '{"x-a": 1}', '{"x-": 1, "x-b": 2}'],
        ['{"a": 1}', '{"x-a": "1"}'],
    ),
    "map counts": (
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2},
        ['{"a": 1}', '{"a": 1, "b": 2}'],
        ["{}", '{"a": 1, "b": 2, "c": 3}'],
    ),
    "enum": (
        {"enum": ["red", "green", "greener", 1, None, {"a": [1]}, 'qu"ote', "ü"]},
        ['"red"', '"green"', '"greener"', "1", "null", '{"a": [1]}', '"qu\\"ote"', '"ü"'],
        ['"re"', '"greene"', "2", "red"],
    ),
    "enum and type": ({"enum": ["a", 1, 2.5, None], "type": ["integer", "null"]}, ["1", "null"], ['"a"', "2.5"]),
    "const and enum": ({"const": 1, "enum": [True, 1.0, 2]}, ["1"], ["2", "true", "1.0"]),
    "const": ({"const": "yes"}, ['"yes"'], ['"no"', "yes"]),
    "anyOf beside properties": (
        {
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}},
            "required": ["kind"],
            "anyOf": [
                {"properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}, "required": ["n"]},
                {"properties": {"kind": {"const": "b"}, "s": {"type": "string"}}, "required": ["s"]},
            ],
        },
        ['{"kind": "a", "n": 1}', '{"kind": "b", "s": "x"}'],
        ['{"kind": "a", "s": "x"}', '{"kind": "b"}', '{"kind": "a"}'],
    ),
    "allOf": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5}}, "required": ["a"]},
                {"properties": {"a": {"maximum": 9}, "b": {"type": "string"}}, "required": ["b"]},
            ]
        },
        ['{"a": 5, "b": ""}', '{"a": 9, "b": "x"}'],
        ['{"a": 4, "b": ""}', '{"a": 10, "b": ""}', '{"a": 5}'],
    ),
    "alternatives that hold each other": (  # 2^40 readings, were what they share not written once
        NESTED,
        ['{"k":{"k":{"k":1,"x":null},"y":null},"x":null}'],
        ['{"k":' * 40 + "1" + ',"x":null},"z":null}' * 20],
    ),
    "nullable": ({"type": "string", "nullable": True, "enum": ["a"]}, ['"a"', "null"], ['"b"']),
    "tree": (
        TREE,
        ['{"value": 1, "children": []}', '{"value": -1.5e3, "children": [{"value": 0, "children": []}]}'],
        ['{"value": 1}', '{"value": 1, "children": [1]}'],
    ),
    "array counts": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        ["[true, false]", "[true,true,true]"],
        ["[]", "[true]", "[true,true,true,true]", "[true,]"],
    ),
    "tuple": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1},
        ["[1]", '[1, "a"]'],
        ["[]", '["a"]', '[1, "a", 2]', "[1, 2]"],
    ),
    "tuple of draft 7": (
        {"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 2, "maxItems": 3},
        ["[1, 2]", "[1, 2, 2]"],
        ["[1]", "[1, 1]", "[1, 2, 2, 2]"],
    ),
    "no items": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "lengths": ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"äö😀"', '"a\\n"'], ['"a"', '"abcd"']),
    "long lengths": (
        {"type": "string", "minLength": 1990, "maxLength": 5003},
        [f'"{"a" * n}"' for n in (1990, 1991, 2499, 2500, 3123, 5002, 5003)],
        [f'"{"a" * n}"' for n in (1989, 5004)],
    ),
    "pattern": (
        {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$", "maxLength": 10},
        ['"AB-123"'],
        ['"AB-12"', '"ab-123"', '"AB-1234"'],
    ),
    "pattern somewhere": ({"type": "string", "pattern": "b+\\\\"}, ['"abb\\\\c"'], ['"abb"', '"b\\n"']),
    "pattern with quotes": ({"type": "string", "pattern": '^"\n$'}, ['"\\"\\n"'], ['"""', '"\\"n"']),
    "two patterns": (
        {"type": "string", "pattern": "^a", "allOf": [{"pattern": "z$"}, {"maxLength": 3}]},
        ['"az"', '"abz"'],
        ['"a"', '"abbz"', '"bz"'],
    ),
    "date-time": (
        {"type": "string", "format": "date-time"},
        ['"2024-02-29T23:59:59Z"', '"1999-12-31T00:00:00.5+01:00"'],
        ['"2023-02-29T00:00:00Z"', '"2023-04-31T00:00:00Z"', '"2023-01-01"', '"2023-01-01T24:00:00Z"'],
    ),
    "uuid": (
        {"type": "string", "format": "uuid"},
        ['"123e4567-e89b-12d3-a456-426614174000"'],
        ['"123e4567e89b12d3a456426614174000"'],
    ),
    "bounds": (
        {"type": "integer", "minimum": -12, "exclusiveMaximum": 105},
        ["-12", "-1", "0", "9", "99", "104"],
        ["-13", "-120", "105", "110", "1000", "-0", "00", "1.0"],
    ),
    "decimals": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
        ["0.1", "2.5", "2.50", "1", "0.000001"],
        ["0", "0.0", "2.51", "-1", "3", "1e0"],
    ),
    "multiples": ({"type": "integer", "multipleOf": 5, "minimum": 1}, ["5", "10", "1005"], ["0", "6", "-5"]),
    "cents": ({"type": "number", "multipleOf": 0.01, "minimum": 0}, ["19.99", "0.1", "3"], ["1.999"]),
    "draft 4 bounds": ({"type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 5}, ["4", "5"], ["3"]),
    "any value": (
        True,
        ["null", '{"a": [1, {"b": "c"}]}', "[]", "-3.25", '"x"'],
        ["{a: 1}", "tru", "'x'", '"\n"', '"\\ud800"'],
    ),
    "any object": ({"type": "object"}, ["{}", '{"a": {"b": []}}'], ["[]", "1"]),
}


@pytest.fixture(scope="module")
def verdicts(demo_gguf: Path) -> dict[str, Verdict]:
    jobs = [
        Job(answer_grammar(schema).gbnf, [*good, *bad], 0 if name in RARE else 15)
        for name, (schema, good, bad) in CASES.items()
    ]
    return dict(zip(CASES, judge(demo_gguf, jobs), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_texts(verdicts: dict[str, Verdict], name: str) -> None:
    schema, good, bad = CASES[name]
    verdict = verdicts[name]
    assert verdict.accepted == [True] * len(good) + [False] * len(bad), answer_grammar(schema).gbnf
    assert answer_grammar(schema).unenforced == ()
    assert [validate_answer(schema, text) for text in good] == [[]] * len(good)
    assert verdict.written or name in RARE
    assert [text for text in verdict.written if validate_answer(schema, text)] == []


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, "not"),
        ({"type": "number", "multipleOf": 0.3}, "multipleOf"),
        ({"type": "string", "format": "phone"}, "format 'phone'"),
        ({"type": "string", "maxLength": 20_000}, "maxLength"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: Any, left: str) -> None:
    grammar = answer_grammar(schema)
    assert grammar.unenforced == (left,)
    assert grammar.note is not None
    assert left in grammar.note


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("text", "is an object, not text"),
        (False, "no JSON value satisfies"),
        ({"const": 5, "enum": [1, 2]}, "no JSON value satisfies"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no JSON value satisfies"),
        ({"type": "string", "allOf": [{"type": "integer"}]}, "no JSON value satisfies"),
        (ENDLESS, "no JSON value satisfies"),
        ({"type": "strnig"}, "#/type is \"strnig\"; the types are"),
        ({"properties": {"a": {"minimum": "1"}}}, '#/properties/a/minimum is "1", not a number'),
        ({"properties": {"a": 1}}, "#/properties/a is a number, not an object"),
        ({"minLength": -1}, "#/minLength is -1, not a whole number"),
        ({"$ref": "http://example.org/x"}, "only #/… is followed"),
        ({"$ref": "#/$defs/missing"}, "#/$defs/missing, which is not in it"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "(a"}, "unmatched ("),
        ({"type": "string", "minLength": 10_001}, "above 10,000"),
        ({"enum": []}, "#/enum allows no value"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": "\ud800"}, "not JSON"),
    ],
)  # fmt: skip
def test_refused(schema: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        answer_grammar(schema)
    assert words in caught.value.message


def test_a_grammar_is_compact() -> None:
    properties = {f"field_{n}": {"type": "string"} for n in range(100)}
    grammar = answer_grammar({"type": "object", "properties": properties, "required": list(properties)}).gbnf
    assert len(grammar) < 100 * len(json.dumps(properties)) / 25


def test_validation_names_the_place() -> None:
    assert validate_answer(PERSON, '{"name": "A", "age": "7"}') == ["$.age: '7' is not of type 'integer'"]
    assert validate_answer(PERSON, "{")[0].startswith("the answer is not JSON: Expecting property name")
    assert validate_answer({}, "[" * 100_000) == ["the answer is nested too deeply"]
    assert validate_answer({}, "NaN") == ["the answer is not JSON: NaN is no number of JSON"]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"multipleOf": 0.3}, ["3e50", "0.9", "-3", "true"], ["1e50", "1e999", "0.31"]),
        (
            {"uniqueItems": True},
            ["[]", '[1, true, "1", [1], {"a": 1}, {"a": true}, null]', '{"a": 1}', "[0, false, [], {}]"],
            ["[1, 1.0]", '[{"a": [1, 2], "b": 0}, {"b": 0.0, "a": [1, 2]}]', "[[], []]"],
        ),
        (
            {
                "properties": {"a": {}},
                "patternProperties": {"^(?<x>x)-": {}},  # a group that Python's `re` does not know
                "unevaluatedProperties": False,
            },
            ["{}", '{"a": 1, "x-1": 2}', "[1]"],
            ['{"b": 1}', '{"x": 1}'],
        ),
        (
            {
                "allOf": [{"$ref": "#/$defs/named"}],
                "anyOf": [{"properties": {"b": {"const": 1}}}, {"required": ["c"], "properties": {"c": {}}}],
                "dependentSchemas": {"d": {"properties": {"d": {}, "e": {}}}},
                "if": {"required": ["f"], "properties": {"f": {}}},
                "then": {"properties": {"g": {}}},
                "else": {"properties": {"h": {}}},
                "unevaluatedProperties": {"type": "null"},
                "$defs": {"named": {"properties": {"a": {}}}},
            },
            ['{"a": 1, "b": 1}', '{"a": 1, "c": 1, "z": null}', '{"d": 1, "e": 1}', '{"f": 1, "g": 1}', '{"h": 1}'],
            ['{"c": 1, "b": 2}', '{"e": 1}', '{"f": 1, "h": 1}', '{"g": 1}', '{"z": 1}'],
        ),
        (
            {
                "properties": {"a": {"additionalProperties": True}},
                "allOf": [{"additionalProperties": {"type": "null"}}],
                "unevaluatedProperties": False,
            },
            ['{"a": null, "b": null}'],
            [],
        ),
    ],
)
def test_what_only_the_check_of_the_answer_sees(schema: Any, good: list[str], bad: list[str]) -> None:
    assert [validate_answer(schema, text) for text in good] == [[]] * len(good)
    assert [len(validate_answer(schema, text)) for text in bad] == [1] * len(bad)
