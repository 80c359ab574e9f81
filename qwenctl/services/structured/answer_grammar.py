"""From a JSON schema to the grammar that holds an answer to it. Pure.

    schema → plain form (plain_schema.py) → rules (schema_rules.py) → GBNF (grammar_rules.py)

The grammar writes a part of what the schema allows, never more, but for the keywords in `AnswerGrammar.unenforced`:
properties come in the schema's order, ones that it does not name only where `additionalProperties` asks for them, and
white space is a space or a line break with its indentation, so that no model can go on with it for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import Budget
from qwenctl.services.structured.grammar_rules import Ref, RuleTable
from qwenctl.services.structured.plain_schema import plain_schema
from qwenctl.services.structured.schema_rules import SchemaRules

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}  # what "a JSON object" means as a schema


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """A grammar, and what it leaves to the check of the finished answer."""

    gbnf: str
    unenforced: tuple[str, ...] = ()  # keywords

    @property
    def note(self) -> str | None:
        """A line for the user about `unenforced`."""
        if not self.unenforced:
            return None
        names = ", ".join(self.unenforced)
        return f"the schema's {names} cannot be enforced while the answer is written: it is checked afterwards"


def answer_grammar(schema: Any) -> AnswerGrammar:
    """Return the grammar of the JSON values that `schema` allows.

    Args:
        schema: a JSON schema as decoded JSON.

    Raises:
        InvalidRequest: it is no schema, too large, allows no value, or uses what cannot be enforced or checked.
    """
    compiler = SchemaRules(plain_schema(schema), RuleTable(), Budget())
    gbnf = compiler.rules.text(compiler.rules.add("start", [[Ref(compiler.root())]]))
    if gbnf is None:
        raise InvalidRequest("no JSON value satisfies the schema")
    return AnswerGrammar(gbnf, tuple(compiler.unenforced))
