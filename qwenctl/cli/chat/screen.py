"""What a chat needs of the place it is shown in. Knows nothing of models and commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meter:
    """What the input line says about the conversation."""

    model: str
    mode: str  # how the next answer will be made: "thinks", "does not think", or nothing
    n_context_tokens: int | None  # taken by the conversation so far; None before the first answer
    n_ctx: int

    def __str__(self) -> str:
        parts = [self.model, *([self.mode] if self.mode else [])]
        if self.n_context_tokens is None:
            parts.append(f"{self.n_ctx} tokens of context")
        else:
            parts.append(f"{self.n_context_tokens} of {self.n_ctx} tokens ({self.n_context_tokens / self.n_ctx:.0%})")
        return " · ".join(parts)


class Screen(ABC):
    """Where turns come from and answers go to.

    For each answer: `begin_reply`, any number of `reasoning`, any number of `answer`, `end_reply`.
    """

    interactive: bool
    """Whether somebody sits there who can stop an answer and type on."""

    reads_keys = False
    """Whether turns are read key by key, so that Enter typed ahead must stay a key."""

    @abstractmethod
    def read_turn(self, meter: Meter) -> str | None:
        r"""Return what was typed (one turn, line breaks as \n), or None at its end.

        Raises:
            KeyboardInterrupt: Ctrl-C on an empty line.
        """

    @abstractmethod
    def begin_reply(self) -> None:
        """Say that the prompt is being read."""

    @abstractmethod
    def reasoning(self, text: str, n_tokens: int) -> None:
        """Show that the model thinks: a piece of its thoughts, and the tokens generated so far."""

    @abstractmethod
    def answer(self, text: str) -> None:
        """Show a piece of the answer."""

    @abstractmethod
    def end_reply(self) -> None:
        """End the answer, complete or not; the next write starts on a line of its own."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a remark that is not part of the conversation."""

    @abstractmethod
    def show(self, text: str) -> None:
        """Show lines that were asked for."""

    @abstractmethod
    def error(self, message: str, hint: str | None = None) -> None:
        """Show what went wrong, and the next step."""


def join_block(lines: list[str]) -> str | None:
    r'''Return the turn that `lines` make, or None if a `"""` block in them is still open.'''
    text = "\n".join(lines)
    opening = text.lstrip()
    if not opening.startswith('"""'):
        return text
    inner, closing, rest = opening[3:].partition('"""')
    if not closing:
        return None
    return inner.strip("\n") + rest
