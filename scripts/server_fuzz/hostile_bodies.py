"""Bodies that no honest client sends, or that honest clients get wrong: JSON values and bytes, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

MESSAGES = [{"role": "user", "content": "Hello"}]
GOOD: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 2}
NUMBERS = (0, -1, 1, 2**31, 2**32, 2**63, -(2**63), 10**400, 1e308, -1e308, 5e-324, 0.1)
NO_NUMBERS = (True, None, "1", "", [], {}, [1], "NaN")
NUMERIC_FIELDS = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "top_logprobs",
    "thinking_budget",
]
FIELDS = [
    *NUMERIC_FIELDS,
    "logprobs",
    "stop",
    "stream",
    "stream_options",
    "logit_bias",
    "messages",
    "tools",
    "tool_choice",
    "response_format",
    "chat_template_kwargs",
    "reasoning_effort",
    "model",
    "user",
    "modalities",
    "functions",
    "grammar",
    "parallel_tool_calls",
    "return_progress",
]
TEXTS = (
    "",
    "\0",
    "\ud800",
    "<|im_end|>",
    "<|im_start|>system\n",
    "<think>",
    "</think>",
    "<tool_call>",
    "a" * 20_000,
    "!" * 20_000,
    "\u202e\u0000\uffff",
    "😀" * 3000,
    "{{ 7 * 7 }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "\r\n\r\nHTTP/1.1 200 OK",
    "ﷺ" * 2000,
)


def dumps(value: Any) -> bytes:
    """JSON with what Python allows and JSON does not: NaN, halves of surrogate pairs."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def damaged(rng: random.Random) -> bytes:
    """A good body with a few bytes changed."""
    data = bytearray(dumps(GOOD | {"temperature": 0.5, "stop": ["a"]}))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data))
        how = rng.randrange(4)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at : at + rng.randint(1, 9)]
        elif how == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        else:
            data[at:at] = rng.choice((b"[", b"{", b'"', b"\\u", b",", b"\xff", b"\xed\xa0\x80", b"1e999"))
        data = data or bytearray(b" ")
    return bytes(data)


def deep(rng: random.Random) -> bytes:
    """Lists and objects within each other, or only their beginnings."""
    n = rng.choice((90, 99, 101, 1000, 50_000, 1_000_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"[[],", b"]")))
    inner = opening * n + (b"1" if rng.random() < 0.5 else b"[]") + closing * (n if rng.random() < 0.7 else 0)
    field = rng.choice((b"messages", b"metadata", b"tools", b"chat_template_kwargs", b"response_format"))
    return b'{"max_tokens": 2, "messages": [{"role": "user", "content": "a"}], "' + field + b'": ' + inner + b"}"


def odd_value(rng: random.Random, levels: int = 3) -> Any:
    """Any JSON value, more likely an awkward one."""
    kind = rng.randrange(6)
    if kind == 0 and levels:
        return [odd_value(rng, levels - 1) for _ in range(rng.randrange(4))]
    if kind == 1 and levels:
        names = [*FIELDS, "type", "function", "name", "content", "role"]
        return {rng.choice(names): odd_value(rng, levels - 1) for _ in range(rng.randrange(4))}
    return rng.choice(TEXTS if kind in (2, 3) else NUMBERS + NO_NUMBERS)


def odd_fields(rng: random.Random) -> bytes:
    """Known fields with values of any kind."""
    body = dict(GOOD)
    for _ in range(rng.randint(1, 3)):
        body[rng.choice(FIELDS)] = odd_value(rng)
    return dumps(body)


def odd_numbers(rng: random.Random) -> bytes:
    """Numeric fields with numbers from the edges."""
    return dumps(GOOD | {rng.choice(NUMERIC_FIELDS): rng.choice(NUMBERS + NO_NUMBERS) for _ in range(2)})


def odd_texts(rng: random.Random) -> bytes:
    """Messages whose text is control, markup, or much."""
    roles = ("user", "system", "assistant", "tool", "developer", "function", "", 1)
    messages = [{"role": rng.choice(roles), "content": rng.choice(TEXTS)} for _ in range(rng.randint(1, 4))]
    return dumps({"messages": messages, "max_tokens": 2, "stop": rng.choice(("\ud800", "x", [], [""] * 3, "a" * 5000))})


def grammar(rng: random.Random) -> bytes:
    """Grammars that are deep, endless, ambiguous, or none."""
    n = rng.choice((300, 60_000, 200_000))
    text = rng.choice(
        (
            "root ::= " + "(" * n + '"a"' + ")" * n,
            "root ::= root",
            'root ::= root "a" | "b"',
            "root ::= missing",
            "root ::= " + '"a"' + "?" * n,
            'root ::= "a"{1,1000000000}',
            'root ::= ("a"{1,1000}){1,1000}',
            "root ::= [" + "a" * n,
            "root ::= " + " | ".join(f'"{i}"' for i in range(2000)),
            "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(500)) + 'r500 ::= "a"\nroot ::= r0',
            "root ::= ((((",
            '"a"',
            "root ::= \0",
            'root ::= ""*',
            'root ::= (""*)*',
            "root ::= [\\x",
            "root ::= [^\\U0010FFFF-\\x00]",
            rng.randbytes(200).decode("latin-1"),
        )
    )
    return dumps(GOOD | {"grammar": text})


def schema(rng: random.Random) -> bytes:
    """Schemas that are deep, recursive, contradictory, or large."""
    nested: Any = {"type": "integer"}
    for _ in range(rng.choice((5, 45))):
        nested = {"type": "object", "properties": {"a": nested}, "required": ["a"]}
    value = rng.choice(
        (
            {"type": "string", "pattern": "^(a+)+$"},
            {"type": "string", "pattern": "^(a|aa)+b{1,100000}$"},
            {"type": "string", "pattern": "(" * 500 + ")" * 500},
            {"type": "string", "pattern": "^(?=.*a)(?!b)\\1$"},
            {"type": "string", "minLength": 10**9},
            {"type": "string", "maxLength": -5},
            {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
            {"type": "array", "uniqueItems": True, "minItems": 3, "items": {"enum": [1]}},
            {"enum": list(range(20_000))},
            {"enum": []},
            {"type": "integer", "minimum": -(10**400), "maximum": 10**400},
            {"type": "integer", "multipleOf": 0},
            {"$ref": "#"},
            {"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#/definitions/a"}}},
            {"$ref": "http://127.0.0.1:1/schema.json"},
            {"$ref": "file:///etc/passwd"},
            {"allOf": [{"anyOf": [{"const": i}, {"const": -i}]} for i in range(30)]},
            {"anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "string"}}} for i in range(300)]},
            {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}},
            {"type": "object", "patternProperties": {"^(x+x+)+y$": {}}, "additionalProperties": False},
            {"not": {"not": {"not": {}}}},
            {"type": "nothing"},
            {"type": ["string", "null", "integer", 5]},
            False,
            nested,
            odd_value(rng, 5),
        )
    )
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}
    return dumps(GOOD | {"response_format": form})


def tools(rng: random.Random) -> bytes:
    """Tools with names and parameters of any kind."""
    name = rng.choice(("f", "a b", "", "x" * 500, "../x", '"', 5))
    parameters = rng.choice(
        ({"type": "object"}, {"type": "object", "properties": {"a": odd_value(rng)}}, [], "x", odd_value(rng))
    )
    function = {"name": name, "description": rng.choice(TEXTS), "parameters": parameters}
    listed = [{"type": rng.choice(("function", "function", "web")), "function": function}] * rng.choice((1, 1, 2, 200))
    choice = rng.choice(("auto", "required", "none", {"type": "function", "function": {"name": name}}, 5))
    return dumps(GOOD | {"tools": listed, "tool_choice": choice})


def tokens(rng: random.Random) -> bytes:
    """For /v1/completions and /v1/embeddings."""
    lists = ([2**31 - 1], [0] * 50_000, [-1], [5, 1.5], ["a"] * 65, [[]], [[1], "a"], [[1] * 3000] * 20)
    prompt = rng.choice((*lists, "", "a" * 100_000, None))
    biases = {str(rng.choice((0, 5, 10**8, 2**31))): rng.choice((-100, 100, 0.5))}
    body = {"prompt": prompt, "input": prompt, "max_tokens": 2, "logit_bias": biases}
    return dumps(body | {"logprobs": rng.choice((0, 20, 21))})


def anthropic(rng: random.Random) -> bytes:
    """Bodies of Anthropic's API."""
    kinds = ("text", "tool_use", "tool_result", "thinking", "image", "document")
    texts = {"id": "x", "thinking": "a"}
    blocks = [
        {"type": rng.choice(kinds), "text": rng.choice(TEXTS), "input": odd_value(rng), "content": odd_value(rng)}
        | texts
        for _ in range(rng.randrange(4))
    ]
    body = {"messages": [{"role": rng.choice(("user", "assistant", "system")), "content": blocks}], "max_tokens": 2}
    if rng.random() < 0.5:
        body[rng.choice(("system", "thinking", "tools", "tool_choice", "stop_sequences", "temperature"))] = odd_value(
            rng
        )
    return dumps(body)


# kind → (path, how a body is made)
BODIES: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "damaged JSON": ("/v1/chat/completions", damaged),
    "deep JSON": ("/v1/chat/completions", deep),
    "odd numbers": ("/v1/chat/completions", odd_numbers),
    "odd fields": ("/v1/chat/completions", odd_fields),
    "odd texts": ("/v1/chat/completions", odd_texts),
    "grammars": ("/v1/chat/completions", grammar),
    "schemas": ("/v1/chat/completions", schema),
    "tools": ("/v1/chat/completions", tools),
    "completions": ("/v1/completions", tokens),
    "embeddings": ("/v1/embeddings", tokens),
    "messages": ("/v1/messages", anthropic),
    "count_tokens": ("/v1/messages/count_tokens", anthropic),
}
