"""One chat: a conversation, the model that answers, the screen that shows it.

Knows nothing of slash commands and of where text comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from qwenctl.cli.chat.context_use import ContextUse, context_use
from qwenctl.cli.chat.reply_view import show_reply
from qwenctl.cli.chat.screen import Meter, MeterLevel, Screen
from qwenctl.cli.condensing import context_warning
from qwenctl.cli.errors import OutputClosed
from qwenctl.cli.interrupt import HungUp, InterruptWatch
from qwenctl.cli.prompt_input import attached_line, ordered
from qwenctl.cli.reply_stats import finish_note, mode_name, stats_lines, thinking_note
from qwenctl.cli.schema_options import violation
from qwenctl.cli.tool_options import chain_note
from qwenctl.core import FinishReason
from qwenctl.errors import QwenctlError
from qwenctl.services.attachment import Attachment
from qwenctl.services.conversation import Conversation, Exchange
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt, Reply
from qwenctl.services.overflow.condense import Condenser, CondenseStep
from qwenctl.services.reply import ReplyDone
from qwenctl.services.session import Session
from qwenctl.services.session_record import SessionRecord
from qwenctl.services.tools.tool_chain import ToolChain, ToolUse, begin_answer, steps_of


class ChatSession:
    """The state of a chat and what can be done to it.

    Args:
        options: how answers are generated; `thinking` is the conversation's.
        record: saves the conversation as it goes on; None: nothing does.
        tools: what the model may call.
    """

    def __init__(
        self,
        model: ChatModel,
        screen: Screen,
        options: ChatOptions,
        conversation: Conversation,
        record: SessionRecord | None = None,
        *,
        tools: ToolUse | None = None,
    ) -> None:
        self.model, self.screen, self.conversation = model, screen, conversation
        self.n_failed = 0  # questions without an answer
        self._options = options
        self._condenser = Condenser(model, self._show_condensing)
        self._warned_level: MeterLevel = "fine"
        self._tools = tools
        self._reply: Reply | ToolChain | None = None  # that is being generated
        self.record = record
        self._attached: list[Attachment] = []  # for the next question
        self._last: tuple[PreparedPrompt, ReplyDone] | None = None
        self._n_context_tokens: int | None = None
        self._noted: set[str] = set()

    @property
    def meter(self) -> Meter:
        """What the input line shows."""
        capabilities, thinking = self.model.capabilities, self.conversation.thinking
        if capabilities.thinking == "hybrid":
            mode = mode_name(capabilities.thinks_by_default if thinking is None else thinking)
        else:
            mode = mode_name(True) if capabilities.thinking == "always" else ""
        info = self.model.engine.info
        return Meter(info.name, mode, self._n_context_tokens, info.n_ctx)

    @property
    def last_answered(self) -> Exchange | None:
        """The last exchange that has an answer."""
        return next((one for one in reversed(self.conversation.exchanges) if one.answer is not None), None)

    @property
    def context_use(self) -> ContextUse:
        """What the next prompt is made of."""
        engine = self.model.engine
        count = lambda text: len(engine.tokenize(text, parse_special=False))  # noqa: E731
        return context_use(self.conversation, self._n_context_tokens, engine.info.n_ctx, count)

    @property
    def stats(self) -> list[str]:
        """Figures of the last answer, or of the model before there is one."""
        if self._last is None:
            return [str(self.meter)]
        prepared, done = self._last
        engine = self.model.engine
        return stats_lines(engine.info, prepared, done, offload=engine.offload_stats())

    def ask(self, text: str) -> None:
        """Add a question and let the model answer it. One that cannot be answered is not kept, nor are its files."""
        documents, self._attached = [str(attachment) for attachment in self._attached], []
        self._answer(self.conversation.add_user(ordered(documents, text)))

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Put files before the next question, each once."""
        new = [one for one in attachments if one not in self._attached]
        self._attached.extend(new)
        if new:
            line = attached_line(self._attached, self.model.engine.tokenize)
            self.screen.note(f"{line}, before the next question")

    def regenerate(self) -> None:
        """Let the model answer the last question anew. If that fails, the old answer stays.

        Raises:
            InvalidRequest: there is no answer.
        """
        self._answer(self.conversation.regenerate())

    def change(self, conversation: Conversation) -> None:
        """Go on with a changed conversation; nothing is generated."""
        if conversation.exchanges != self.conversation.exchanges:
            self._n_context_tokens = None
        self.conversation = conversation
        self._save()

    def begin(self, conversation: Conversation) -> None:
        """Go on with another conversation. The one before it stays saved as it is."""
        if self.record is not None:
            self.record.start_over()
        self.change(conversation)

    def resume(self, session: Session) -> None:
        """Go on with a saved chat instead of this one, which stays saved as it is. For chats that are saved."""
        if self.record is not None:
            self.record.go_on_with(session)
        self.change(session.conversation)

    def _save(self) -> None:
        if self.record is None:
            return
        try:
            note = self.record.save(self.conversation)
        except QwenctlError as error:
            if error.message not in self._noted:  # once: it will hold for the next turns, too
                self._noted.add(error.message)
                self.screen.error(error.message, error.hint)
            return
        if note is not None:
            self.screen.note(note)

    def _answer(self, conversation: Conversation) -> None:
        try:
            self._try_to_answer(conversation)
        except (HungUp, OutputClosed):
            self._keep_what_came(conversation)
            raise
        finally:
            self._reply = None

    def _keep_what_came(self, conversation: Conversation) -> None:
        """Save a turn in the middle of its answer; there is nobody any more to be told of errors."""
        if self.record is not None and self._reply is not None and self._reply.answer + (self._reply.reasoning or ""):
            said, thought, steps = self._reply.answer, self._reply.reasoning, steps_of(self._reply)
            partly = conversation.add_assistant(said, thought, partial=True, steps=steps)
            with suppress(QwenctlError):
                self.record.save(partly)

    def _try_to_answer(self, conversation: Conversation) -> None:
        options = replace(self._options, thinking=conversation.thinking, reports_progress=self.screen.interactive)
        try:
            with InterruptWatch(self._cancel) as watch:
                prepare = self._condenser.prepare
                self._reply = begin_answer(self.model, conversation.messages, options, prepare, self._tools)
                self._note_once(self._reply.prepared.notes)
                if watch.requested:
                    self.screen.note("stopped before the answer began")
                    return
                done = show_reply(self.screen, self._reply)
                prepared, steps, chain = self._reply.prepared, steps_of(self._reply), chain_note(self._reply)
                if not self.screen.interactive:  # where nobody sits, it ends the chat as well
                    watch.raise_if_requested()
        except QwenctlError as error:
            self.n_failed += 1
            self.screen.error(error.message, error.hint)
            return
        if done.reason is FinishReason.ERROR:
            self.n_failed += 1
            self.screen.error(done.error or "the model stopped with an error")
            return
        if failed := violation(options.answer_schema, done):
            self.n_failed += 1
            self.screen.error(failed.message, failed.hint)
        partial = done.reason is FinishReason.CANCELLED
        self.conversation = conversation.add_assistant(done.answer, done.reasoning, partial=partial, steps=steps)
        self._save()
        self._last = prepared, done
        n_used = done.usage.n_prompt_tokens + done.usage.n_generated_tokens
        self._n_context_tokens = n_used - done.n_reasoning_tokens  # which the next prompt leaves out
        ending = finish_note(done, prepared.request.max_tokens, options.max_tokens, self.model.engine.info.n_ctx)
        for note in filter(None, (chain, thinking_note(prepared, done), ending)):
            self.screen.note(note)
        self._warn_of_overflow()

    def _cancel(self) -> None:
        """Let the answer that is being generated end early; Ctrl-C calls it."""
        self._condenser.cancel()
        if self._reply is not None:
            self._reply.cancel()

    def _warn_of_overflow(self) -> None:
        """Say once that the context is nearly full, and once more that it is full."""
        level, n_tokens = self.meter.level, self._n_context_tokens
        if n_tokens is not None and level not in ("fine", self._warned_level):
            self.screen.note(context_warning(n_tokens, self.meter.n_ctx, self._options.overflow))
        self._warned_level = level

    def _show_condensing(self, step: CondenseStep) -> None:
        if step.part == 1:
            self.screen.note(step.sentence)

    def _note_once(self, notes: tuple[str, ...]) -> None:
        """Show what has to be said about a prompt; the same sentence once a chat."""
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self.screen.note(note)
