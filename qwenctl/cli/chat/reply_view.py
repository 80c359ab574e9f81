"""One reply on a screen, from its first event to its last. Knows nothing of conversations."""

from __future__ import annotations

from qwenctl.cli.chat.screen import Screen
from qwenctl.core import PromptProgress
from qwenctl.services.generation import Reply
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyDone
from qwenctl.services.tools.tool_chain import ChainEvent, ToolCalled, ToolChain, ToolReturned


def show_reply(screen: Screen, reply: Reply | ToolChain) -> ReplyDone:
    """Show a reply as it comes and return its end. Calls of tools stand between two replies of the screen."""
    view = _View(screen)
    view.begin()
    try:
        for event in reply:
            if isinstance(event, ReplyDone):
                return event
            view.show(event)
            if screen.wants_answer():
                reply.end_thinking()
    finally:
        reply.close()
        view.end()
    raise AssertionError("a reply ends with ReplyDone")


class _View:
    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._is_open = False
        self._n_reasoning_tokens = 0

    def begin(self) -> None:
        if not self._is_open:
            self._screen.begin_reply()
            self._is_open = True

    def end(self) -> None:
        if self._is_open:
            self._screen.end_reply()
            self._is_open = False

    def show(self, event: ChainEvent) -> None:
        if isinstance(event, ToolCalled):
            if self._is_open:
                self._screen.pause_reply()
                self._is_open = False
            self._screen.tool_call(event.call)
        elif isinstance(event, ToolReturned):
            self._screen.tool_result(event.result)
        else:
            self.begin()
            self._show_words(event)

    def _show_words(self, event: ChainEvent) -> None:
        if isinstance(event, PromptProgress):
            self._screen.prompt_progress(event)
        elif isinstance(event, ReasoningDelta):
            self._n_reasoning_tokens += 1
            self._screen.reasoning(event.text, self._n_reasoning_tokens)
        elif isinstance(event, AnswerDelta):
            self._screen.answer(event.text)
