"""Grammars that must not reach llama.cpp's parser."""

from __future__ import annotations

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_check import MAX_BYTES, MAX_DEPTH, check_grammar, deepest_nesting


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("  \n", "empty"),
        ('root ::= "\0"', "NUL"),
        ('root ::= "' + "a" * MAX_BYTES + '"', "bytes long"),
        ("root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, "nested 60,000 deep"),
        ("root ::= " + "(" * (MAX_DEPTH + 1) + '"a"' + ")" * (MAX_DEPTH + 1), f"at most {MAX_DEPTH}"),
    ],
)
def test_harmful_grammars_are_refused(grammar: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_grammar(grammar)


@pytest.mark.parametrize(
    ("grammar", "depth"),
    [
        ('root ::= ("a" | ("b" "c")) ("d")', 2),
        ('root ::= "((((" [(((] ("\\"((")', 1),
        ("root ::= ( # ((((\n [\\](((] )", 1),
        ('root ::= "unfinished (((', 0),
        ("root ::= a )))( b", 1),
    ],
)
def test_nesting_is_counted_outside_of_literals_classes_and_comments(grammar: str, depth: int) -> None:
    assert deepest_nesting(grammar) == depth
    check_grammar(grammar)
