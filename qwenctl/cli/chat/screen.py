"""What a chat needs of the place it is shown in. Knows nothing of models and commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from qwenctl.cli.output import cell_width
from qwenctl.cli.tool_options import call_line, result_line
from qwenctl.core import PromptProgress
from qwenctl.services.tools.tool import ToolResult
from qwenctl.services.tools.tool_call import ToolCall
from qwenctl.units import format_seconds

MeterLevel = Literal["fine", "high", "full"]
_HIGH, _FULL = 0.8, 0.95  # of the context


@dataclass(frozen=True, slots=True)
class Meter:
    """What the input line says about the conversation."""

    model: str
    mode: str  # how the next answer will be made: "thinks", "does not think", or nothing
    n_context_tokens: int | None  # taken by the conversation so far; None before the first answer
    n_ctx: int

    @property
    def level(self) -> MeterLevel:
        """How urgent it is to do something about the context."""
        share = (self.n_context_tokens or 0) / self.n_ctx
        return "full" if share >= _FULL else "high" if share >= _HIGH else "fine"

    def fitted(self, columns: int) -> str:
        """Return as much of it as `columns` hold, the use of the context last of all."""
        used = self._use()
        shorter = f"{self.n_context_tokens or 0}/{self.n_ctx}"
        for text in (str(self), " · ".join(part for part in (self.mode, used) if part), used, shorter):
            if cell_width(text) <= columns:
                return text
        return shorter[:columns]

    def __str__(self) -> str:
        return " · ".join(part for part in (self.model, self.mode, self._use()) if part)

    def _use(self) -> str:
        if self.n_context_tokens is None:
            return f"{self.n_ctx} tokens of context"
        hint = {"fine": "", "high": ", /context", "full": ", /context or /clear"}[self.level]
        return f"{self.n_context_tokens} of {self.n_ctx} tokens ({self.n_context_tokens / self.n_ctx:.0%}{hint})"


class Screen(ABC):
    """Where turns come from and answers go to.

    For each answer: `begin_reply`, any number of `prompt_progress`, of `reasoning`, of `answer`, `end_reply`. In
    between, `wants_answer` is asked now and then. A screen is used within its own `with`: there it may take hold of the
    terminal.
    """

    interactive: bool
    """Whether somebody sits there who can stop an answer and type on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(  # noqa: B027  there is nothing to give back
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @abstractmethod
    def read_turn(self, meter: Meter) -> str | None:
        r"""Return what was typed (one turn, line breaks as \n), or None at its end.

        Raises:
            KeyboardInterrupt: Ctrl-C on an empty line.
        """

    @abstractmethod
    def begin_reply(self) -> None:
        """Say that the prompt is being read."""

    def prompt_progress(self, progress: PromptProgress) -> None:  # noqa: B027  not every screen shows it
        """Show how much of the prompt has been read."""

    @abstractmethod
    def reasoning(self, text: str, n_tokens: int) -> None:
        """Show that the model thinks: a piece of its thoughts, and the tokens generated so far."""

    @abstractmethod
    def answer(self, text: str) -> None:
        """Show a piece of the answer."""

    def pause_reply(self) -> None:
        """The reply goes on after calls of tools, with `begin_reply`: the next write starts on a line of its own."""
        self.end_reply()

    def tool_call(self, call: ToolCall) -> None:
        """Show that the model wants a tool called. It may be asked next whether it is to be run."""
        self.note(call_line(call))

    def tool_result(self, result: ToolResult) -> None:
        """Show the beginning of what a tool returned."""
        self.note(result_line(result))

    def wants_answer(self) -> bool:
        """Tell whether the user has pressed the key for "no more thinking, answer now" since the last call."""
        return False

    @abstractmethod
    def end_reply(self) -> None:
        """End the answer, complete or not; the next write starts on a line of its own."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a remark that is not part of the conversation."""

    @abstractmethod
    def show(self, text: str, *, dim: bool = False) -> None:
        """Show lines that were asked for; `dim`: set off from what the model says, where that can be done."""

    def copy(self, text: str) -> bool:  # noqa: ARG002  a screen without escape sequences cannot
        """Hand `text` to the clipboard of whoever sits there; False: this screen has no way to."""
        return False

    @abstractmethod
    def error(self, message: str, hint: str | None = None) -> None:
        """Show what went wrong, and the next step."""

    @abstractmethod
    def choose(self, text: str, choices: Mapping[str, str]) -> str | None:
        """Show `text` and let the user take one of `choices` by its key. What was typed before does not count.

        Args:
            choices: for each key, a small letter, what it does.

        Returns:
            The key; None where nobody can be asked, and for Ctrl-C and Ctrl-D.
        """


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


def thought_line(seconds: float, n_tokens: int) -> str:
    """Return the line that stands for folded reasoning."""
    return f"▸ thought for {format_seconds(seconds)}, {n_tokens} tokens"
