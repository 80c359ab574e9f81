"""Calls of tools in a model's answer, found while it is written. Pure.

    text … <tool_call> … </tool_call> <tool_call> … </tool_call>

Text comes out as soon as it cannot be part of a tag. What looks like a call but is none comes out as the text that it
is. White space between text and calls is dropped: it belongs to the format.

A call comes whole, when its end is there, because only then is it known to be one. A parser that streams gives its
arguments as they come, once the call begins as calls of an offered tool do (hermes_arguments.py, xml_arguments.py); all
others still come whole. What a call has been given, it keeps. If it breaks off then, because the reply is cut (at its
most tokens, by a stop text, cancelled) or because it does not go on as a call, it ends as one that is not whole: its
arguments lack their last brace at least, so that nobody can take them for JSON; what follows a break is text. That is
what OpenAI's API does at `max_tokens`, streamed or not: the beginning of the arguments and finish_reason "length".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwenctl.services.tools.call_parts import ArgumentsPiece, ArgumentsReader, CallBegun, CallEnded, OpenedCall, Part
from qwenctl.services.tools.held_call import HeldCall
from qwenctl.services.tools.hermes_arguments import open_hermes_call
from qwenctl.services.tools.tool_call import CLOSE_TAG, OPEN_TAG, ToolFormat
from qwenctl.services.tools.xml_arguments import open_xml_call


class ToolCallParser:
    """Takes the answer in pieces, however they are cut.

    Args:
        tool_format: how the model writes calls.
        tools: what it may call, in OpenAI's form.
        streams: whether arguments are wanted as they come; else every call comes whole, or is text.
    """

    def __init__(
        self, tool_format: ToolFormat, tools: Sequence[Mapping[str, Any]] = (), *, streams: bool = False
    ) -> None:
        self._format, self._tools, self._streams = tool_format, tools, streams
        self._names = [tool.get("function", tool)["name"] for tool in tools]
        bare = self._names if tool_format == "xml" else []
        self._openings = (OPEN_TAG, *(f"<function={name}>" for name in bare))  # some models forget the outer tag
        self._opening = re.compile("|".join(map(re.escape, self._openings)))
        self._held = ""  # text that may yet be part of a tag, or the beginning of what has just been entered
        self._gap = ""  # white space before the call, for the case that it is none
        self._call: HeldCall | None = None  # that the text is in
        self._arguments: ArgumentsReader | None = None  # that the text is in
        self._after_call = False

    def feed(self, text: str) -> list[Part]:
        """Return what `text` settles, in order."""
        self._held += text
        return self._settled(final=False, cut=False)

    def finish(self, *, cut: bool = False) -> list[Part]:
        """The answer is over: return the rest. A call without its closing tag counts if it is complete.

        Args:
            cut: it was not the model that ended it.
        """
        return self._settled(final=True, cut=cut)

    def _settled(self, *, final: bool, cut: bool) -> list[Part]:
        parts: list[Part] = []
        while True:
            if self._arguments:
                taken = self._from_arguments(self._arguments, final=final, cut=cut)
            elif self._call:
                taken = self._from_call(self._call, final=final, cut=cut)
            else:
                taken = self._text(final=final)
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
            self._gap, self._held = before[len(text) :], self._held[opening.start() :]
            self._call = HeldCall(self._format, self._tools, bare=opening[0] != OPEN_TAG)
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

    def _from_call(self, call: HeldCall, *, final: bool, cut: bool) -> list[Part] | None:
        """Take the text of a call up to where it can be streamed, or its end."""
        call.take(self._held)
        self._held = ""
        if self._streams and call.head_grew and (opened := self._opened(call.head[call.n_tag :])):
            self._held = call.text[call.n_tag + opened.n_characters :]
            self._call, self._arguments = None, opened.arguments
            return [CallBegun(opened.name)]
        taken = call.finish(cut=cut) if final else call.ended()
        if taken is None:
            return None
        self._call, self._held, self._after_call = None, taken.rest, taken.call is not None
        return [taken.call or self._gap + taken.text]

    def _opened(self, body: str) -> OpenedCall | None:
        if self._format == "hermes":
            return open_hermes_call(body, self._names)
        return open_xml_call(body, self._tools)

    def _from_arguments(self, arguments: ArgumentsReader, *, final: bool, cut: bool) -> list[Part] | None:
        """Take the text of a call that is streamed."""
        passed = arguments.take(self._held)
        parts: list[Part] = [ArgumentsPiece(passed.json)] if passed.json else []
        self._held = passed.rest
        if passed.is_whole is None and final:
            passed = arguments.finish(cut=cut)
            parts += [ArgumentsPiece(passed.json)] if passed.json else []
            self._held = passed.rest
        if passed.is_whole is None:
            return parts or None
        self._arguments, self._after_call = None, passed.is_whole
        return [*parts, CallEnded(passed.is_whole)]


def _joined(parts: Sequence[Part]) -> list[Part]:
    """`parts` with neighbouring texts in one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return joined
