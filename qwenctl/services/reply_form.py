"""The form that a reply must have, as a grammar: a JSON schema's, a call of a tool, or either. Pure.

Without a schema, and where calls are the model's choice, there is no grammar: it may write what it wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.answer_grammar import AnswerGrammar, answer_grammar
from qwenctl.services.tools.call_grammar import call_grammar
from qwenctl.services.tools.tool_call import ToolFormat
from qwenctl.services.tools.tool_choice import ToolChoice


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """What is asked of a reply's form."""

    schema: Any | None  # of the answer; None: any text
    tools: Sequence[Mapping[str, Any]]  # that the model knows of
    choice: ToolChoice
    tool_format: ToolFormat | None  # of the model's template

    def grammar(self) -> AnswerGrammar | None:
        """Return the grammar, None where none is needed.

        Raises:
            InvalidRequest: what is asked for cannot be enforced.
        """
        may_call = bool(self.tools) and self.choice.mode != "none"
        must_call = may_call and self.choice.mode == "required"
        if must_call and self.tool_format is None:
            raise InvalidRequest("the model's chat template does not write calls of tools in a form that can be forced")
        if may_call and self.tool_format and (must_call or self.schema is not None):
            answer = None if must_call else self.schema
            return call_grammar(self.tools, self.choice, self.tool_format, answer=answer)
        return None if self.schema is None else answer_grammar(self.schema)


def held_to_form(sampling: Mapping[str, Any], form: ReplyForm) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the sampling options with the grammar of `form`, and what to tell the user about it.

    Raises:
        InvalidRequest: what cannot be enforced, or a form beside a grammar of the user's own.
    """
    grammar = form.grammar()
    if grammar is None:
        return sampling, ()
    if sampling.get("grammar") is not None:
        raise InvalidRequest("a grammar excludes a schema and a forced call", "leave one of them out")
    return {**sampling, "grammar": grammar.gbnf}, (grammar.note,) if grammar.note else ()
