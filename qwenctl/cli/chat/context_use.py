"""What uses the context of a chat, part by part, as `/context` shows it. Pure: counts in, lines out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwenctl.services.conversation import Conversation

_BAR_CELLS = 24


@dataclass(frozen=True, slots=True)
class ContextUse:
    """Tokens of each part of the next prompt."""

    parts: tuple[tuple[str, int], ...]  # name, tokens
    n_left_out: int  # tokens of earlier reasoning, which are in no prompt
    n_ctx: int

    @property
    def n_free(self) -> int:
        """Tokens that the next question and its answer may have."""
        return max(0, self.n_ctx - sum(n_tokens for _, n_tokens in self.parts))

    def lines(self) -> list[str]:
        """Return a line a part, with a bar."""
        rows = [*self.parts, ("free", self.n_free)]
        name_width, count_width = max(len(name) for name, _ in rows), len(str(self.n_ctx))
        lines = [
            f"{name:<{name_width}}  {n_tokens:>{count_width}}  {n_tokens / self.n_ctx:4.0%}  "
            + ("░" if name == "free" else "█") * round(_BAR_CELLS * n_tokens / self.n_ctx)
            for name, n_tokens in rows
        ]
        if self.n_left_out:
            lines.append(f"left out: {self.n_left_out} tokens of reasoning, which the model does not see again")
        return [line.rstrip() for line in lines]


def context_use(
    conversation: Conversation, n_used_tokens: int | None, n_ctx: int, count: Callable[[str], int]
) -> ContextUse:
    """Return what the next prompt is made of before its question.

    Args:
        n_used_tokens: tokens of it all as the last answer left it; None: not known, then the template's are left out.
        count: returns the tokens of a text.
    """
    exchanges = conversation.exchanges
    answers = [one.answer for one in exchanges if one.answer is not None]
    parts = [
        ("system prompt", count(conversation.system or "")),
        (f"questions ({len(exchanges)})", sum(count(one.user) for one in exchanges)),
        (f"answers ({len(answers)})", sum(map(count, answers))),
    ]
    said = sum(n_tokens for _, n_tokens in parts)
    if n_used_tokens is not None and n_used_tokens > said:
        parts.append(("chat template", n_used_tokens - said))  # what it writes between them
    return ContextUse(tuple(parts), sum(count(one.reasoning or "") for one in exchanges), n_ctx)
