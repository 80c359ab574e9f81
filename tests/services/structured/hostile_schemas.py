"""Schemas made to crash, exhaust or stall what compiles them. This file run as a script is the child that tries one.

The child has 20 s of processor time and 1 GiB of memory: far more than the compiler allows itself.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_check import check_grammar
from qwenctl.services.structured.answer_grammar import answer_grammar
from qwenctl.services.structured.answer_validation import validate_answer


def _nested(keyword: str, n: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(n):
        schema = {keyword: [schema]} if keyword.endswith("Of") else {keyword: schema}
    return schema


def _doubling(n: int) -> Any:
    """Each definition asks twice for the next."""
    defs = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}]}]}
        for i in range(n)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "null"}}}


def _subsets(n: int) -> Any:
    """Recursive definitions whose combinations are all different."""
    defs = {
        f"d{i}": {
            "type": "object",
            "properties": {
                f"p{k}": {"allOf": [{"$ref": f"#/$defs/d{(i + k) % n}"}, {"$ref": f"#/$defs/d{k}"}]} for k in range(n)
            },
        }
        for i in range(n)
    }
    return {"$ref": "#/$defs/d0", "$defs": defs}


def _alternatives(n: int) -> Any:
    return {
        "allOf": [
            {"anyOf": [{"properties": {f"a{i}": {"type": "null"}}}, {"properties": {f"b{i}": {}}}]} for i in range(n)
        ]
    }


def _one_of(n: int) -> Any:
    option = {"anyOf": [{"properties": {f"a{i}": {"const": i}}} for i in range(200)]}
    return {"properties": {f"p{k}": {"oneOf": [option] * 20} for k in range(n)}}


BIG = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": i} for i in range(400)}}

HOSTILE: dict[str, Callable[[], Any]] = {
    "deep not": lambda: _nested("not", 60_000),
    "deep allOf": lambda: _nested("allOf", 60),
    "deep items": lambda: _nested("items", 120),
    "a chain of references": lambda: {
        "$ref": "#/$defs/d0",
        "$defs": {**{f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)}, "d2000": {"type": "null"}},
    },
    "doubling references": lambda: _doubling(200),
    "all subsets": lambda: _subsets(12),
    "2^30 alternatives": lambda: _alternatives(30),
    "200 alternatives compared": lambda: _one_of(5),
    "20,000 values": lambda: {"enum": list(range(20_000))},
    "values that are checked": lambda: {"enum": list(range(10_000)), "not": {"enum": list(range(5_000))}},
    "values told from each other": lambda: {"const": [{"a": i} for i in range(9000)], "uniqueItems": True},
    "2,000 properties": lambda: {"properties": {f"p{i}": {} for i in range(2000)}},
    "large schema in every place": lambda: {
        "allOf": [{"patternProperties": {"": BIG}}, {"properties": {f"q{i}": {"minimum": i} for i in range(400)}}]
    },
    "a large count": lambda: {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
    "counts in counts": lambda: {
        "type": "array", "minItems": 9000,
        "items": {"type": "array", "minItems": 9000, "items": {"type": "string", "minLength": 9000}},
    },
    "a count that is a huge float": lambda: {"type": "string", "maxLength": 1e308},
    "a bound of 4,000 digits": lambda: {"type": "integer", "minimum": -(10**4000), "maximum": 10**4000},
    "a tiny step": lambda: {"type": "number", "multipleOf": 1e-300},
    "nested groups": lambda: {"type": "string", "pattern": "(" * 1000 + ")" * 1000},
    "repeated repetitions": lambda: {"type": "string", "pattern": "^((((a?){30}){30}){30}){30}$"},
    "repetitions of nothing": lambda: {"type": "string", "pattern": "((((){1000}){1000}){1000}){1000}"},
    "1,999 signs of repetition": lambda: {"type": "string", "pattern": "a" + "+" * 1999},
    "an escape without its end": lambda: {"type": "string", "pattern": "\\u{410"},
    "backtracking": lambda: {"type": "string", "pattern": "^(a+)+(a|aa)*(.*a){20}b$"},
    "backtracking over names": lambda: {
        "const": {"a" * 60 + "!": 1}, "patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False,
    },
    "doubling references, unevaluated": lambda: {**_doubling(200), "unevaluatedProperties": False, "const": {}},
    "too many states": lambda: {"type": "string", "pattern": "(a|b)*a(a|b){20}"},
    "many patterns": lambda: {
        "properties": {f"p{i}": {"type": "string", "pattern": f"(a|b)*a(a|b){{8}}{i}"} for i in range(300)}
    },
    "patterns that intersect": lambda: {
        "type": "string", "allOf": [{"pattern": f"^(.{{{n}}})*$"} for n in (7, 11, 13, 17, 19, 23)],
    },
    "names told from many": lambda: {
        "properties": {f"{i:03}{'x' * 50}": {} for i in range(400)}, "additionalProperties": True,
    },
    "a reference to itself": lambda: {"$ref": "#"},
}  # fmt: skip


def _try(name: str) -> str:
    schema = HOSTILE[name]()
    try:
        grammar = answer_grammar(schema)
        check_grammar(grammar.gbnf)
        validate_answer(schema, json.dumps({"p0": {"p0": [[]]}}))
    except InvalidRequest as error:
        return error.message
    return f"{len(grammar.gbnf)} characters"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    sys.stdout.write(_try(sys.argv[1]))
