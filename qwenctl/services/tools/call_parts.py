"""What a parser of calls returns, and the contract of what reads the arguments of a call as they come. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from qwenctl.services.tools.tool_call import ToolCall


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call whose arguments come next, in pieces."""

    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """A piece of the JSON of the arguments. No escape, pair of surrogates, number or word is cut in two."""

    json: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call that has begun is over."""

    is_whole: bool  # False: its arguments are the beginning of a JSON object, without its last brace


Part = str | ToolCall | CallBegun | ArgumentsPiece | CallEnded
"""Text, a call that comes whole, or what a call comes in."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What a piece of a call's text brings."""

    json: str = ""  # of the arguments
    is_whole: bool | None = None  # once the call is over
    rest: str = ""  # then: the text after it


class ArgumentsReader(Protocol):
    """Reads the text of a call from its arguments on."""

    def take(self, text: str) -> Passed:
        """Return what `text` brings."""

    def finish(self, *, cut: bool) -> Passed:
        """Return the end of the call, given that no text comes any more.

        Args:
            cut: it was not the model that ended it.
        """


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """The beginning of a call of which it is certain enough that it is one."""

    name: str
    n_characters: int  # up to what `arguments` is to take
    arguments: ArgumentsReader
