"""--schema and --json-object: what they ask for, how the model is told, and what is said of an answer that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from qwenctl.core import FinishReason
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.reply import ReplyDone
from qwenctl.services.structured.answer_grammar import ANY_OBJECT, answer_grammar
from qwenctl.services.structured.answer_validation import validate_answer
from qwenctl.services.structured.schema_reading import read_schema

F = TypeVar("F", bound=Callable[..., Any])

_TOLD = "Answer with JSON alone. It must satisfy this JSON schema:"
_TOLD_OBJECT = "Answer with one JSON object alone."


def schema_options() -> list[Callable[[F], F]]:
    """Return the two options."""
    return [
        click.option(
            "--schema",
            metavar="SCHEMA",
            help="Hold the answer to a JSON schema: a file, JSON, or a short form such as 'name, age int, tags str[]'.",
        ),
        click.option("--json-object", is_flag=True, help="Hold the answer to a JSON object of any form."),
    ]


def chosen_schema(schema: str | None, *, json_object: bool, grammar: bool) -> Any | None:
    """Return the schema of the answer, None for none. What cannot be enforced is refused before a model is loaded.

    Raises:
        InvalidRequest: a schema that is none, or more than one of --schema, --json-object and --grammar.
    """
    given = [
        name
        for name, is_given in (("--schema", schema is not None), ("--json-object", json_object), ("--grammar", grammar))
        if is_given
    ]
    if len(given) > 1:
        raise InvalidRequest(f"{given[0]} and {given[1]} exclude each other", "leave one of them out")
    if schema is None:
        return ANY_OBJECT if json_object else None
    read = read_schema(schema)
    answer_grammar(read)
    return read


def told_of_schema(system: str | None, schema: Any | None) -> str | None:
    """Return the system prompt with what the answer must look like: a grammar alone leaves a model in the dark."""
    if schema is None:
        return system
    told = _TOLD_OBJECT if schema == ANY_OBJECT else f"{_TOLD}\n{json.dumps(schema, ensure_ascii=False)}"
    if system and told in system:
        return system
    return f"{system}\n\n{told}" if system else told


def violation(schema: Any | None, done: ReplyDone) -> GenerationFailed | None:
    """Return what is wrong with an answer that has been printed; None: it satisfies the schema, or there is none."""
    if schema is None or done.reason in (FinishReason.ERROR, FinishReason.CANCELLED):
        return None
    try:
        sentences = validate_answer(schema, done.answer)
    except InvalidRequest as error:
        return GenerationFailed(f"whether the answer satisfies the schema is not known: {error.message}", error.hint)
    if not sentences:
        return None
    if done.reason is FinishReason.LENGTH:
        return GenerationFailed(
            "the answer does not satisfy the schema: it ran into the limit of tokens before its end",
            "allow more with --max-tokens or --ctx, less thinking with --think-budget, or bound the schema's texts",
        )
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    return GenerationFailed(f"the answer does not satisfy the schema: {sentences[0]}{more}")
