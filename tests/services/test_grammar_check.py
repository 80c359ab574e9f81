"""Grammars that must not reach llama.cpp's parser."""

from __future__ import annotations

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_check import MAX_BYTES, check_grammar
from qwenctl.services.grammar_shape import MAX_DEPTH


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("  \n", "empty"),
        ('root ::= "\0"', "NUL"),
        ('root ::= "' + "a" * MAX_BYTES + '"', "bytes long"),
        ("root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, "nested 60,000 deep"),
        ("root ::= " + "(" * (MAX_DEPTH + 1) + '"a"' + ")" * (MAX_DEPTH + 1), f"at most {MAX_DEPTH}"),
        ("root ::= # a comment\r" + '("x" ' * 300 + '"a"' + ")" * 300, "nested 300 deep"),
        ('root ::= "(" [(] # (\n' + '("\\"(" [\\](] ' * 300 + '"a"' + ")" * 300, "nested 300 deep"),
    ],
)
def test_harmful_grammars_are_refused(grammar: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_grammar(grammar)


@pytest.mark.parametrize("hidden", ['"{}"', "[{}]", '("a" | # {}\n "b")', '"\\"{}"', "[\\]{}]", "# {}\n"])
def test_nesting_is_counted_outside_of_literals_classes_and_comments(hidden: str) -> None:
    check_grammar(f'root ::= "r" {hidden.format("(" * (MAX_DEPTH + 1))}')


def test_nesting_is_what_is_open_at_once() -> None:
    check_grammar("root ::= " + '("a") ' * (MAX_DEPTH + 1))
    check_grammar("root ::= " + "(" * MAX_DEPTH + '"a"' + ")" * MAX_DEPTH + ' ("b")')


CHAIN = "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000)) + '\nr3000 ::= "a"\nroot ::= r0'
CHOICES = "\n".join(f'r{i} ::= r{i + 1} "x" | r{i + 1} "y"' for i in range(40)) + '\nr40 ::= "a"\nroot ::= r0'


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= root "a" | "b"', "begins with itself: root"),
        ('root ::= b root "x" | "y"\nb ::= c\nc ::= ""', "begins with itself"),  # llama.cpp finds no loop here
        ('root ::= (("a"?)*)*', "begins with itself"),
        (CHOICES, "more than 5,000 ways"),
        ("root ::= " + '"a"? ' * 6000, "more than 5,000 ways"),
        (CHAIN, "begin with one another"),
        ('root ::= "a"{0,3000}', "3,000 times"),
        ("root ::= " + '"aaaaaaaaaaaaaaaa"{2000} ' * 100, "repetitions are written out"),
        ('root ::= ("a"', "is not closed"),
        ('root ::= "a")', "closes nothing"),
        ('"a"', "before any rule"),
        ("root ::= *", "before a repetition"),
        ('root ::= "unfinished', "not GBNF at"),
    ],
)
def test_what_llama_cpp_could_not_digest(grammar: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_grammar(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" [^b\\]]* ("c" | <think> !<[12]>)+ .? x{2,} # comment (\nx ::= "\\"(" {1}\n',
        'root ::= (sum "=" ws term)+\nsum ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" ws sum ")" ws\nws ::= [ ]*',
        'root ::= "[" (root ("," root)*)? "]"',
        'root ::=\n  "a" |\n  "b"\n\n',
        "root ::= [a-z]{3}{2}",
    ],
)
def test_usual_grammars_pass(grammar: str) -> None:
    check_grammar(grammar)
