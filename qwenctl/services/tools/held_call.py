"""The text of a call that comes whole, gathered until its end is there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.services.tools.hermes_call import ends_in_string, read_hermes_call
from qwenctl.services.tools.tool_call import CLOSE_TAG, OPEN_TAG, ToolCall, ToolFormat
from qwenctl.services.tools.xml_call import read_xml_call

HEAD_CHARACTERS = 2000  # in which a call must show what it is to be streamed
_TAG = re.compile(f"{OPEN_TAG}|{CLOSE_TAG}")
_FUNCTION_END = "</function>"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a call's text turned out to be."""

    call: ToolCall | None  # None: it is no call
    text: str
    rest: str  # after it


class HeldCall:
    """Takes text from a call's opening tag on. Looks at all of it only where there is a tag in it."""

    def __init__(self, tool_format: ToolFormat, tools: Sequence[Mapping[str, Any]], *, bare: bool) -> None:
        self.head = ""  # the first characters
        self.head_grew = False  # with the last text
        self.n_tag = 0 if bare else len(OPEN_TAG)
        self._format, self._tools = tool_format, tools
        self._pieces: list[str] = []
        self._closing = _FUNCTION_END if bare else CLOSE_TAG
        self._mark = _FUNCTION_END if bare else CLOSE_TAG.removeprefix("</")  # of every tag that may be the end
        self._recent = ""  # in which the mark may begin
        self._read_to = self.n_tag
        self._in_string = False  # where it is read to

    @property
    def text(self) -> str:
        """All so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def take(self, text: str) -> None:
        """Accept more."""
        self._pieces.append(text)
        self._recent += text
        self.head_grew = len(self.head) < HEAD_CHARACTERS
        if self.head_grew:
            self.head = (self.head + text)[:HEAD_CHARACTERS]

    def ended(self) -> Taken | None:
        """Return the call if its end is there; None: not yet."""
        has_end = self._mark in self._recent
        self._recent = self._recent[1 - len(self._mark) :]
        if not has_end:
            return None
        return self._hermes(self.text) if self._format == "hermes" else self._xml(self.text)

    def finish(self, *, cut: bool) -> Taken:
        """Return what it is, given that no text comes any more.

        Args:
            cut: it was not the model that ended it; else closing tags may be missing.
        """
        text = self.text
        body = text[self.n_tag :]
        if self._format == "hermes":
            return Taken(read_hermes_call(body), text, "")
        return Taken(read_xml_call(body.removesuffix(CLOSE_TAG), self._tools, lenient=not cut), text, "")

    def _hermes(self, text: str) -> Taken | None:
        """A tag within a string of the arguments is part of it."""
        for tag in _TAG.finditer(text, self._read_to):
            self._in_string ^= ends_in_string(text[self._read_to : tag.start()])
            self._read_to = tag.end()
            if not self._in_string:
                n_taken = tag.end() if tag[0] == CLOSE_TAG else tag.start()
                return Taken(read_hermes_call(text[self.n_tag : tag.start()]), text[:n_taken], text[n_taken:])
        return None

    def _xml(self, text: str) -> Taken | None:
        """Closing tags within a value are part of it, as long as what follows them is no end of a call."""
        while (index := text.find(self._closing, self._read_to)) >= 0:
            self._read_to = index + len(self._closing)
            body = text[self.n_tag : index] if self.n_tag else text[: self._read_to]
            call = read_xml_call(body, self._tools)
            if call:
                return Taken(call, text[: self._read_to], text[self._read_to :])
        return None
