"""Print a reply as it comes: the answer on standard output, the reasoning dimmed on standard error."""

from __future__ import annotations

from qwenctl.cli.code_blocks import FirstCodeBlock
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.late_status import LateStatus
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_clock import PromptClock
from qwenctl.cli.tool_options import call_line, result_line
from qwenctl.core import PromptProgress
from qwenctl.services.generation import Reply
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyDone
from qwenctl.services.tools.tool_chain import ToolCalled, ToolChain, ToolReturned


class ReplyPrinter:
    """Prints one reply. With `--json` it prints nothing: the document is written when the reply is complete.

    Args:
        code: prints no more of the answer than this takes of it.
    """

    def __init__(self, output: Output, *, show_reasoning: bool, code: FirstCodeBlock | None = None) -> None:
        self._output, self._show_reasoning, self._code = output, show_reasoning, code
        self._last_char = "\n"  # of the answer
        self._in_reasoning = False

    def print(self, reply: Reply | ToolChain) -> ReplyDone:
        """Print `reply` to its end and return its last event. An answer that does not end its line gets a line break.

        Calls of tools and the beginnings of their results go to standard error.

        Raises:
            KeyboardInterrupt: the reply was interrupted; what had come is printed.
        """
        prompt = PromptClock()
        try:
            with InterruptWatch(reply.cancel) as watch, LateStatus(self._output.status, lambda: prompt.line) as status:
                for event in reply:
                    if isinstance(event, PromptProgress):
                        prompt.take(event)
                        continue
                    status.end()
                    if isinstance(event, ReasoningDelta):
                        self._reasoning(event.text)
                    elif isinstance(event, AnswerDelta):
                        self._answer(event.text)
                    elif isinstance(event, ToolCalled):
                        self._aside(call_line(event.call))
                    elif isinstance(event, ToolReturned):
                        self._aside(result_line(event.result))
                    elif isinstance(event, ReplyDone):
                        if self._code is not None:
                            self._write(self._code.finish())
                        watch.raise_if_requested()
                        return event
        finally:
            reply.close()
            self._end_reasoning()
            if self._last_char != "\n":
                self._output.line()
        raise AssertionError("a reply ends with ReplyDone")

    def _reasoning(self, text: str) -> None:
        if self._show_reasoning:
            self._in_reasoning = True
            self._output.aside(text)

    def _answer(self, text: str) -> None:
        self._end_reasoning()
        self._write(text if self._code is None else self._code.feed(text))

    def _aside(self, line: str) -> None:
        self._end_reasoning()
        if self._last_char != "\n":
            self._write("\n")
        self._output.note(line)

    def _write(self, text: str) -> None:
        if not self._output.json_mode and text:
            self._output.stream(text)
            self._last_char = text[-1]

    def _end_reasoning(self) -> None:
        """Set the reasoning off from the answer, with which it may share a terminal."""
        if self._in_reasoning:
            self._in_reasoning = False
            self._output.aside("\n\n")
