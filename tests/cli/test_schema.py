"""`--schema` and `--json-object` with the demo model: the answer, its check, what is refused before a model loads."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("shared_cache")
CITY = '{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}'


def test_an_answer_that_satisfies_its_schema(qwenctl, demo_gguf):
    ran = qwenctl("run", demo_gguf, "What is the capital of France?", "--schema", CITY, "--seed", "1")
    assert ran.code == 0
    assert json.loads(ran.stdout)["city"] in ("Paris", "Rome")
    assert "<think>" not in ran.stdout


def test_an_answer_that_was_cut_is_printed_and_fails(qwenctl, demo_gguf):
    ran = qwenctl("run", demo_gguf, "Hello", "--schema", CITY, "--no-think", "--max-tokens", "3")
    assert ran.code == 1
    assert ran.stdout.startswith("{")
    assert "ran into the limit of tokens" in ran.stderr
    assert "--max-tokens" in ran.stderr


def test_what_the_grammar_leaves_is_checked(qwenctl, demo_gguf):
    schema = '{"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2, "uniqueItems": true}'
    ran = qwenctl("run", demo_gguf, "Hello", "--schema", schema, "--no-think")
    assert ran.code == 1
    assert json.loads(ran.stdout) == [1, 1]
    assert "uniqueItems cannot be enforced" in ran.stderr
    assert "does not satisfy the schema: $: [1, 1] has non-unique elements" in ran.stderr


def test_the_model_is_told_of_the_schema(qwenctl, demo_gguf):
    with_schema = qwenctl("run", demo_gguf, "Hello", "--schema", CITY, "--no-think", "--json")
    without = qwenctl("run", demo_gguf, "Hello", "--no-think", "--max-tokens", "1", "--json")
    n_with, n_without = (json.loads(ran.stdout)["usage"]["prompt_tokens"] for ran in (with_schema, without))
    assert n_with > n_without + 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schema", "age integer"], "describes no field"),
        (["--schema", '{"type": "text"}'], "the types are"),
        (["--schema", CITY, "--json-object"], "--schema and --json-object exclude each other"),
    ],
)
def test_refused_before_a_model_is_loaded(qwenctl, words, message):
    ran = qwenctl("run", "no-such-model.gguf", "Hello", *words)
    assert ran.code == 2
    assert message in ran.stderr


def test_a_chat_over_a_pipe(qwenctl, demo_gguf):
    ran = qwenctl("chat", demo_gguf, "--schema", CITY, "--no-think", stdin="Hello\nAnd now?\n")
    assert ran.code == 0
    assert ran.stdout.count('"city"') == 2
