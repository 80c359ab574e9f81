"""The form that a reply must have, as a grammar: a JSON schema's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.answer_grammar import answer_grammar


def held_to_form(sampling: Mapping[str, Any], schema: Any | None) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the sampling options with the grammar of `schema`, and what to tell the user about it.

    Raises:
        InvalidRequest: a schema that cannot be enforced, or one beside a grammar.
    """
    if schema is None:
        return sampling, ()
    if sampling.get("grammar") is not None:
        raise InvalidRequest("a grammar and a schema exclude each other", "leave one of them out")
    grammar = answer_grammar(schema)
    return {**sampling, "grammar": grammar.gbnf}, (grammar.note,) if grammar.note else ()
