"""Calls of tools in a model's answer, found while it is written. Pure.

    text … <tool_call> … </tool_call> <tool_call> … </tool_call>

Text comes out as soon as it cannot be part of a tag; a call comes out whole, when its end is there, because only then
is it known to be one. What looks like a call but is none comes out as the text that it is. White space between text and
calls is dropped: it belongs to the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.services.tools.hermes_call import ends_in_string, read_hermes_call
from qwenctl.services.tools.tool_call import CLOSE_TAG, OPEN_TAG, ToolCall, ToolFormat
from qwenctl.services.tools.xml_call import read_xml_call

Part = str | ToolCall
_FUNCTION_END = "</function>"


@dataclass(frozen=True, slots=True)
class _Taken:
    """What was found at the beginning of a call's text."""

    call: ToolCall | None  # None: it is no call
    n_characters: int


class ToolCallParser:
    """Takes the answer in pieces, however they are cut.

    Args:
        tool_format: how the model writes calls.
        tools: what it may call, in OpenAI's form.
    """

    def __init__(self, tool_format: ToolFormat, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._format, self._tools = tool_format, tools
        names = [tool.get("function", tool)["name"] for tool in tools] if tool_format == "xml" else []
        self._openings = (OPEN_TAG, *(f"<function={name}>" for name in names))  # some models forget the outer tag
        self._opening = re.compile("|".join(map(re.escape, self._openings)))
        self._held = ""  # text that may yet be part of a tag, or all of a call so far, its opening tag included
        self._gap = ""  # white space before the call, for the case that it is none
        self._in_call = False
        self._after_call = False

    def feed(self, text: str) -> list[Part]:
        """Return what `text` settles, in order."""
        self._held += text
        return self._settled(final=False)

    def finish(self) -> list[Part]:
        """The answer is over: return the rest. A call without its closing tag counts if it is complete."""
        return self._settled(final=True)

    def _settled(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        while True:
            taken = self._call(final=final) if self._in_call else self._text(final=final)
            if taken is None:
                return [part for part in _joined(parts) if part]
            parts += taken

    def _text(self, *, final: bool) -> list[Part] | None:
        """Take text up to the next call; None: there is nothing more to be had."""
        if self._after_call:
            self._held = self._held.lstrip()
            if self._format == "xml" and self._held.startswith(CLOSE_TAG):  # of a call that lacked the opening one
                self._held = self._held[len(CLOSE_TAG) :].lstrip()
        opening = self._opening.search(self._held)
        if opening:
            before = self._held[: opening.start()]
            text = before.rstrip()
            self._gap, self._held, self._in_call = before[len(text) :], self._held[opening.start() :], True
            return [text]
        n_settled = len(self._held) if final else self._n_settled()
        text, self._held = self._held[:n_settled], self._held[n_settled:]
        self._after_call = self._after_call and not text
        return [text] if text else None

    def _n_settled(self) -> int:
        """How many characters can neither be part of a tag nor of white space before one."""
        tags = (*self._openings, CLOSE_TAG) if self._after_call else self._openings
        last = self._held.rfind("<")
        begun = last >= 0 and any(tag.startswith(self._held[last:]) for tag in tags)
        return len((self._held[:last] if begun else self._held).rstrip())

    def _call(self, *, final: bool) -> list[Part] | None:
        bare = not self._held.startswith(OPEN_TAG)
        n_tag = 0 if bare else len(OPEN_TAG)
        body = self._held[n_tag:]
        taken = self._hermes(body, final) if self._format == "hermes" else self._xml(body, bare, final)
        if taken is None:
            return None
        n_taken = n_tag + taken.n_characters
        text, self._held = self._held[:n_taken], self._held[n_taken:]
        self._in_call = False
        if taken.call is None:
            self._after_call = False
            return [self._gap + text]
        self._after_call = True
        return [taken.call]

    def _hermes(self, body: str, final: bool) -> _Taken | None:
        """A closing tag within a string of the arguments is part of it."""
        at = 0
        while (end := _first(body, at, CLOSE_TAG, OPEN_TAG)) is not None:
            index, tag = end
            call = read_hermes_call(body[:index])
            if call is None and ends_in_string(body[:index]):
                at = index + len(tag)
                continue
            return _Taken(call, index + (len(tag) if tag == CLOSE_TAG else 0))
        return _Taken(read_hermes_call(body), len(body)) if final else None

    def _xml(self, body: str, bare: bool, final: bool) -> _Taken | None:
        """Closing tags within a value are part of it, as long as what follows them is no end of a call."""
        closing, at = _FUNCTION_END if bare else CLOSE_TAG, 0
        while (index := body.find(closing, at)) >= 0:
            at = index + len(closing)
            call = read_xml_call(body[: at if bare else index], self._tools)
            if call:
                return _Taken(call, at)
        if final:
            call = read_xml_call(body.removesuffix(CLOSE_TAG), self._tools, lenient=True)
            return _Taken(call, len(body))
        return None


def _first(text: str, at: int, *tags: str) -> tuple[int, str] | None:
    """Return the first of `tags` in `text` from `at` on."""
    found = [(index, tag) for tag in tags if (index := text.find(tag, at)) >= 0]
    return min(found) if found else None


def _joined(parts: Sequence[Part]) -> list[Part]:
    """`parts` with neighbouring texts in one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return joined
