"""A conversation as a value: what was said, and how to go on. Every change is a new value.

An exchange is a question with its answer. An answer that was stopped half-way is kept and marked partial. Files are
conversation_file.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwenctl.core import Message
from qwenctl.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, None while there is none yet."""

    user: str
    answer: str | None = None
    reasoning: str | None = None
    partial: bool = False  # the answer was stopped before its end
    steps: tuple[Message, ...] = ()  # between question and answer: calls of tools and their results

    def __post_init__(self) -> None:
        if self.answer is None and (self.reasoning is not None or self.partial or self.steps):
            raise ValueError("reasoning, steps and `partial` belong to an answer")


@dataclass(frozen=True, slots=True)
class Conversation:
    """System prompt, mode and exchanges; only the last exchange may wait for its answer."""

    system: str | None = None
    thinking: bool | None = None  # None: as the model does by default
    exchanges: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        if any(exchange.answer is None for exchange in self.exchanges[:-1]):
            raise ValueError("only the last exchange may wait for an answer")

    @property
    def waiting(self) -> bool:
        """Whether the last question has no answer yet."""
        return bool(self.exchanges) and self.exchanges[-1].answer is None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns as a chat template wants them, system prompt first. Reasoning is in its own field."""
        messages = [Message("system", self.system)] if self.system else []
        for exchange in self.exchanges:
            messages.append(Message("user", exchange.user))
            if exchange.answer is not None:
                messages += exchange.steps
                messages.append(Message("assistant", exchange.answer, exchange.reasoning))
        return tuple(messages)

    def with_system(self, system: str | None) -> Conversation:
        """Return it with another system prompt; None or "" removes it."""
        return replace(self, system=system or None)

    def with_thinking(self, thinking: bool | None) -> Conversation:
        """Return it with thinking on, off, or as the model does by default."""
        return replace(self, thinking=thinking)

    def add_user(self, text: str) -> Conversation:
        """Return it with a question at its end, which waits for an answer.

        Raises:
            ValueError: the question before it is still waiting.
        """
        return replace(self, exchanges=(*self.exchanges, Exchange(text)))

    def add_assistant(
        self, text: str, reasoning: str | None = None, *, partial: bool = False, steps: tuple[Message, ...] = ()
    ) -> Conversation:
        """Return it with the last question answered.

        Raises:
            ValueError: no question waits.
        """
        if not self.waiting:
            raise ValueError("no question waits for an answer")
        last = self.exchanges[-1]
        answered = replace(last, answer=text, reasoning=reasoning or None, partial=partial, steps=steps)
        return replace(self, exchanges=(*self.exchanges[:-1], answered))

    def undo(self) -> Conversation:
        """Return it without the last exchange.

        Raises:
            InvalidRequest: there is none.
        """
        if not self.exchanges:
            raise InvalidRequest("nothing has been said that could be undone")
        return replace(self, exchanges=self.exchanges[:-1])

    def regenerate(self) -> Conversation:
        """Return it with the last question waiting again.

        Raises:
            InvalidRequest: there is no answer yet.
        """
        if not self.exchanges or self.waiting:
            raise InvalidRequest("there is no answer that could be given anew")
        return replace(self, exchanges=(*self.exchanges[:-1], Exchange(self.exchanges[-1].user)))

    def cleared(self) -> Conversation:
        """Return it without exchanges; system prompt and mode stay."""
        return replace(self, exchanges=())
