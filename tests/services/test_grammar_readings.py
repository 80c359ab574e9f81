"""Grammars whose readings multiply, and usual ones, whose do not."""

from __future__ import annotations

from typing import Any

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_check import check_grammar
from qwenctl.services.grammar_readings import check_readings
from qwenctl.services.structured.answer_grammar import answer_grammar

LEVELS = "\n".join(f'r{i} ::= "a" r{i + 1} "x" | "a" r{i + 1} "y"' for i in range(40)) + '\nr40 ::= "a"\nroot ::= r0'


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('root ::= a\na ::= "a" a "a" | "a" a "x" | "y"', "double without end"),  # llama.cpp hangs on 16 letters
        ('root ::= "(" root? root? ")"', "double without end"),
        ('root ::= "(" root* root ")" | "y"', "double without end"),
        ('root ::= "(" (root | root "x") ")" | "y"', "double without end"),
        ('root ::= "a" b | "y"\nb ::= root "x" | [a-c] root "z"', "double without end"),
        (LEVELS, "more than 5,000 readings"),
    ],
)
def test_multiplying_readings_are_refused(grammar: str, words: str) -> None:
    check_grammar(grammar)
    with pytest.raises(InvalidRequest, match=words):
        check_readings(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" root | "a" root | "b"',
        'root ::= "[" (root ("," root)*)? "]" | "{" root "}" | [0-9]+',
        "root ::= " + " | ".join(f'"a{i}"' for i in range(500)),
        'root ::= [ ]* "a" [ ]* "b"? [a-z ]*',
        'root ::= t ("+" t)*\nt ::= [0-9]+ | "(" root ")" | "-" t',
        'root ::= "\\x61" root "1" | "\\u0062" root "2" | [^ab] | [c-] root',
        r'root ::= "\\" root | "\"" root "x" | [\]\-a] root "y" | ""',
    ],
)
def test_usual_grammars_pass(grammar: str) -> None:
    check_grammar(grammar)
    check_readings(grammar)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(20)}},
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "v": {}}},
        {"enum": [f"word {n}" for n in range(2000)]},
    ],
)
def test_grammars_of_schemas_pass(schema: Any) -> None:
    check_readings(answer_grammar(schema).gbnf)
