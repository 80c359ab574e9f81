"""Do answers satisfy their schemas when the model thinks first? Twenty schemas, five questions each, on a real engine.

    .venv/bin/python scripts/check_schemas.py                    the bundled demo, thinking on
    .venv/bin/python scripts/check_schemas.py --model FILE --questions 2 --json

Each answer is validated, and each reply must have been thought about. Texts of the schemas are bounded, as they should
be for a model that may ramble: an answer that runs into the limit of tokens counts as a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenctl.core import FinishReason, Message
from qwenctl.services.demo_conversion import convert_demo
from qwenctl.services.engine import Engine
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import ReplyDone
from qwenctl.services.structured.answer_validation import validate_answer
from qwenctl.services.structured.schema_dsl import parse_schema_dsl
from qwenctl.settings import Settings

_TEXT = {"type": "string", "maxLength": 40}
_WORD = {"type": "string", "pattern": "^[A-Za-z]{1,12}$"}
_TERM = {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties), **more}


SCHEMAS: Mapping[str, Any] = {
    "flat": _object({"name": _TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
    "short form": parse_schema_dsl("country int, is_city bool, ratio float"),
    "enum": {"enum": ["yes", "no", "unknown", "perhaps not"]},
    "const": _object({"kind": {"const": "answer"}, "value": {"type": ["integer", "null"]}}),
    "nested": _object({"place": _object({"city": _WORD, "at": _object({"x": {"type": "number"}})}, required=["city"])}),
    "list": {"type": "array", "items": _WORD, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, _WORD], "minItems": 2},
    "optional": {"type": "object", "properties": {"a": _WORD, "b": {"type": "boolean"}, "c": {"type": "null"}}},
    "map": {"type": "object", "patternProperties": {"^[a-z]{1,6}$": {"type": "integer"}},
            "additionalProperties": False, "minProperties": 1, "maxProperties": 3},
    "any of": {"anyOf": [_object({"city": _WORD}), _object({"number": {"type": "integer"}}), {"type": "null"}]},
    "all of": {"allOf": [_object({"n": {"type": "integer", "minimum": 3}}), {"properties": {"n": {"maximum": 8}}}]},
    "one of": {"oneOf": [_object({"t": {"const": "a"}, "n": {"type": "integer"}}), _object({"t": {"const": "b"}})]},
    "recursive": _object({"plus": {"type": "array", "items": _TERM, "maxItems": 2}}, additionalProperties=False),
    "date": _object({"day": {"type": "string", "format": "date"}, "at": {"type": "string", "format": "time"}}),
    "uuid": _object({"id": {"type": "string", "format": "uuid"}}),
    "pattern": _object({"code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"}}),
    "price": _object({"price": {"type": "number", "minimum": 0, "exclusiveMaximum": 1000, "multipleOf": 0.01}}),
    "multiples": {"type": "array", "items": {"type": "integer", "multipleOf": 5, "minimum": -20, "maximum": 20},
                  "minItems": 1, "maxItems": 3},
    "draft 7": {"type": "array", "items": [{"type": "boolean"}], "additionalItems": {"type": "integer"}, "maxItems": 3},
    "nullable": _object({"text": {**_TEXT, "nullable": True}, "email": {"type": "string", "format": "ipv4"}}),
}  # fmt: skip
QUESTIONS = (
    "What is the capital of France?",
    "What is 12 plus 30?",
    "Which country does Tokyo belong to?",
    "Is the sky blue?",
    "Hello! Who are you?",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer."""

    schema: str
    question: str
    valid: bool
    thought: bool
    answer: str
    problems: tuple[str, ...]


def ask(model: ChatModel, name: str, question: str, seed: int) -> Outcome:
    """Let the model think and answer, and judge the answer."""
    options = ChatOptions(True, {"seed": seed}, 1500, think_budget=200, answer_schema=SCHEMAS[name])
    done = list(model.stream([Message("user", question)], options))[-1]
    if not isinstance(done, ReplyDone):
        raise AssertionError("a reply ends with ReplyDone")
    problems = validate_answer(SCHEMAS[name], done.answer)
    problems += [f"ended by {done.reason.value}"] if done.reason is not FinishReason.STOP else []
    return Outcome(name, question, not problems, bool(done.reasoning), done.answer, tuple(problems))


def main() -> int:
    """Return 0 if every answer satisfies its schema and every reply was thought about."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled demo without it")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    path = arguments.model or convert_demo(Settings.from_environment(os.environ), lambda _: None)
    began = time.monotonic()
    with Engine.open(path, EngineOptions(n_ctx=2048)) as engine, closing(ChatModel(engine)) as model:
        asked = [(name, question) for name in SCHEMAS for question in QUESTIONS[: arguments.questions]]
        outcomes = [ask(model, name, question, seed) for seed, (name, question) in enumerate(asked)]
    n_valid, n_thought = sum(one.valid for one in outcomes), sum(one.thought for one in outcomes)
    if arguments.json:
        json.dump([asdict(one) for one in outcomes], sys.stdout, ensure_ascii=False, indent=1)
    else:
        for one in outcomes:
            print(f"{'ok ' if one.valid else 'BAD'} {one.schema:12} {one.answer[:90]!r} {'; '.join(one.problems)}")
    print(
        f"{n_valid} of {len(outcomes)} answers satisfy their schema, {len(SCHEMAS)} schemas, "
        f"{n_thought} thought about, {time.monotonic() - began:.0f} s",
        file=sys.stderr,
    )
    return 0 if n_valid == n_thought == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
