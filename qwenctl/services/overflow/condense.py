"""Make a conversation fit by letting the model summarise what is too long: part by part, then what came of the parts.

    earlier turns      become a paragraph of the system prompt; those that still fit stay as they are
    the last question  if it is too long itself: the text before its last paragraph becomes notes on that text; the last
                       paragraph, where the question stands, is kept word by word and told to whoever makes the notes

Asks the model by way of generation.py, one request after the other, without thinking where that can be chosen. What was
summarised once is remembered, so that a chat that goes on is not summarised anew with every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwenctl.core import FinishReason, Message
from qwenctl.errors import GenerationFailed, PromptTooLong
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt, Reply
from qwenctl.services.overflow.middle_cut import joined, split_turns
from qwenctl.services.overflow.policy import Summary, fits, room_for_prompt
from qwenctl.services.overflow.text_borders import pieces
from qwenctl.services.reply import ReplyDone

_SHARE_OF_SUMMARY = 4  # a part becomes a quarter of its length at most: so it ends
_MOST_SUMMARY_TOKENS = 512
_MOST_QUESTION_CHARACTERS = 2000
_MOST_ROUNDS = 8
_FRAME_TOKENS = 200  # what is said about a part, besides the question


@dataclass(frozen=True, slots=True)
class CondenseStep:
    """What is being summarised."""

    what: Literal["turns", "text"]
    part: int  # from 1
    n_parts: int
    n_tokens: int  # that the prompt has without it all

    @property
    def sentence(self) -> str:
        """One line for people, before the first part."""
        parts = "one part" if self.n_parts == 1 else f"{self.n_parts} parts"
        what = "the earlier turns" if self.what == "turns" else "the text"
        return f"the prompt is too long ({self.n_tokens:,} tokens): the model summarises {what} first, in {parts}"


Progress = Callable[[CondenseStep], None]


class Condenser:
    """Condenses the prompts of one model.

    Args:
        model: the opened model, which must have nothing else to do.
        progress: told of each part before it is summarised.
    """

    def __init__(self, model: ChatModel, progress: Progress = lambda _: None) -> None:
        self._model, self._progress = model, progress
        self._summary_tokens = min(_MOST_SUMMARY_TOKENS, model.engine.info.n_ctx // 8)
        self._reply: Reply | None = None
        self._cancelled = False
        self._remembered: tuple[tuple[Message, ...], str] | None = None  # earlier turns, and what became of them
        self._n_parts = 0

    def cancel(self) -> None:
        """Stop summarising: `fitted` raises soon. From signal handlers, too."""
        self._cancelled = True
        if self._reply is not None:
            self._reply.cancel()

    def prepare(self, messages: Sequence[Message], options: ChatOptions) -> PreparedPrompt:
        """Return the request for the next reply, as `ChatModel.prepare` does, summarised first where that is wanted.

        Raises: what `ChatModel.prepare` and `fitted` raise.
        """
        if options.overflow != "summarise" or not messages:
            return self._model.prepare(messages, options)
        fitting, summary = self.fitted(messages, options)
        return self._model.prepare(fitting, options).condensed(summary)

    def fitted(self, messages: Sequence[Message], options: ChatOptions) -> tuple[list[Message], Summary | None]:
        """Return messages that fit, and what was summarised; None: they fit as they are.

        Raises:
            PromptTooLong: a system prompt or a last paragraph alone is too long.
            GenerationFailed: the model failed, was stopped, or had nothing to say.
        """
        self._n_parts, self._cancelled = 0, False
        n_ctx = self._model.engine.info.n_ctx
        n_before = self._count(messages, options)
        if fits(n_before, n_ctx, options.max_tokens):
            return list(messages), None
        limit = room_for_prompt(n_ctx, options.max_tokens)
        head, turns = split_turns(messages)
        if not turns:
            raise PromptTooLong(n_before, n_ctx)
        n_earlier = self._n_to_condense(head, turns, limit, options)
        fitting = self._with_summary(head, turns, n_earlier, n_before) if n_earlier else list(messages)
        of_message = self._count(fitting, options) > limit
        if of_message:
            fitting = self._with_notes(fitting, limit, n_before, options)
        n_after = self._count(fitting, options)
        if n_after >= n_ctx:
            raise PromptTooLong(n_after, n_ctx)
        return fitting, Summary(n_before, n_after, self._n_parts, n_earlier, of_message)

    def _n_to_condense(
        self, head: Sequence[Message], turns: Sequence[Sequence[Message]], limit: int, options: ChatOptions
    ) -> int:
        """Return how many turns become a summary: as many as the last time, if that is enough.

        If not, so many that half of the room is free again: the next turns then need no summary of their own.
        """

        def takes(n_condensed: int) -> int:
            kept = [*head, *joined(turns[n_condensed:])]
            return self._count(kept, options) + (self._summary_tokens if n_condensed else 0)

        before = self._remembered[0] if self._remembered else ()
        n_before = next((n for n in range(len(turns)) if tuple(joined(turns[:n])) == before), 0)
        if takes(n_before) <= limit:
            return n_before
        return next((n for n in range(n_before, len(turns)) if takes(n) <= limit // 2), len(turns) - 1)

    def _with_summary(
        self, head: Sequence[Message], turns: Sequence[Sequence[Message]], n_condensed: int, n_tokens: int
    ) -> list[Message]:
        earlier = tuple(joined(turns[:n_condensed]))
        text, done = "", 0
        if self._remembered and earlier[: len(self._remembered[0])] == self._remembered[0]:
            done, text = len(self._remembered[0]), self._remembered[1]
        if done < len(earlier):
            said = "\n\n".join(_said(message) for message in earlier[done:])
            text = self._summary(f"{text}\n\n{said}".strip(), "turns", "", n_tokens, self._summary_tokens)
            self._remembered = earlier, text
        system = head[0].content if head and head[0].role == "system" else ""
        whole = f"{system}\n\nWhat has been said before, in short:\n{text}".strip()
        rest = head[1:] if system else head
        return [Message("system", whole), *rest, *joined(turns[n_condensed:])]

    def _with_notes(
        self, messages: Sequence[Message], limit: int, n_tokens: int, options: ChatOptions
    ) -> list[Message]:
        """Put notes in place of the text of the last question."""
        index = max(index for index, message in enumerate(messages) if message.role == "user")
        text, question = _text_and_question(messages[index].content)

        def with_text(notes: str) -> list[Message]:
            content = f"Notes on a text that was too long to be shown:\n\n{notes}\n\n{question}".strip()
            return [*messages[:index], replace(messages[index], content=content), *messages[index + 1 :]]

        room = limit - self._count(with_text(""), options)
        if room < 1:
            raise PromptTooLong(n_tokens, self._model.engine.info.n_ctx)
        return with_text(self._summary(text, "text", question, n_tokens, room))

    def _summary(self, text: str, what: Literal["turns", "text"], question: str, n_tokens: int, room: int) -> str:
        """Return `text` in at most `room` tokens; in rounds, until it is so short."""
        engine = self._model.engine
        n_question = len(engine.tokenize(question))
        most = (engine.info.n_ctx - _FRAME_TOKENS - n_question) * _SHARE_OF_SUMMARY // (_SHARE_OF_SUMMARY + 1)
        if most < _SHARE_OF_SUMMARY:
            raise PromptTooLong(n_tokens, engine.info.n_ctx)
        for _ in range(_MOST_ROUNDS):
            parts = pieces(text, most, lambda piece: len(engine.tokenize(piece)))
            n_each = max(1, min(self._summary_tokens, most // _SHARE_OF_SUMMARY, room))
            notes = []
            for number, part in enumerate(parts, 1):
                self._progress(CondenseStep(what, number, len(parts), n_tokens))
                notes.append(self._of_part(part, number, len(parts), question, n_each))
            text = "\n\n".join(notes)
            if len(engine.tokenize(text)) <= room:
                return text
        raise GenerationFailed("the model's summaries do not become short enough", "use --overflow truncate-middle")

    def _of_part(self, part: str, number: int, n_parts: int, question: str, n_tokens: int) -> str:
        self._n_parts += 1
        which = "this text" if n_parts == 1 else f"part {number} of {n_parts} of a text"
        use = f" It will be used to answer this: {question}" if question else ""
        task = (
            f"Summarise {which} in at most {max(10, n_tokens // 2)} words. Keep names, numbers, dates and what was "
            f"decided. Write the summary alone.{use}"
        )
        can_choose = self._model.capabilities.thinking == "hybrid"
        options = ChatOptions(
            False if can_choose else None, {"temperature": 0.0}, n_tokens, think_budget=None if can_choose else 0
        )
        self._reply = self._model.stream([Message("user", f"{part.strip()}\n\n{task}")], options)
        if not self._cancelled:
            done = next(event for event in self._reply if isinstance(event, ReplyDone))
        if self._cancelled or done.reason is FinishReason.CANCELLED:
            raise GenerationFailed("stopped while the text was being summarised")
        if not done.answer.strip():
            raise GenerationFailed(f"the model's summary of {which} is empty", "use --overflow truncate-middle")
        return done.answer.strip()

    def _count(self, messages: Sequence[Message], options: ChatOptions) -> int:
        return self._model.n_prompt_tokens(messages, options)


def _text_and_question(content: str) -> tuple[str, str]:
    """Split a message into a text and the question about it: its last paragraph, unless that is long itself."""
    text, _, question = content.rstrip().rpartition("\n\n")
    return (text, question.strip()) if text.strip() and len(question) <= _MOST_QUESTION_CHARACTERS else (content, "")


def _said(message: Message) -> str:
    return f"{message.role.capitalize()}: {message.content}"
