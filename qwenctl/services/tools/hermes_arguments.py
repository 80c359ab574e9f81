"""The arguments of a call in Hermes' format as they come. Pure.

    {"name": "NAME", "arguments": {"KEY":     opens it: a name that was offered, and an object with something in it
    …                                         is passed on
    }}                                        the first is passed on when the second is there
    } </tool_call>                            braces too many, and the tag: dropped

More members after the arguments are no harm, if they do not say name or arguments again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from qwenctl.services.tools.call_parts import OpenedCall, Passed
from qwenctl.services.tools.json_scanner import JsonScanner
from qwenctl.services.tools.tool_call import CLOSE_TAG

# "_": white space
_OPENING = re.compile(
    r'\s*\{_"name"_:_"([^"\\]+)"_,_"(?:arguments|parameters)"_:_\{(?=_"[^"\\]*"_:_["{\[\-0-9tfn])'.replace(
        "_", r"[ \t\n\r]*"
    )
)
_SAID = {"name", "arguments", "parameters"}


def open_hermes_call(body: str, names: Collection[str]) -> OpenedCall | None:
    """Return the call that `body`, text after the tag, begins with; None: that is not certain.

    Args:
        names: of the tools that were offered.
    """
    opening = _OPENING.match(body)
    if opening is None or opening[1] not in names:
        return None
    return OpenedCall(opening[1], opening.end(), _HermesArguments())


class _HermesArguments:
    """Takes text from within the arguments' object on."""

    def __init__(self) -> None:
        self._scanner = JsonScanner("{{")
        self._unsent = "{"
        self._tail: list[str] = []  # from the arguments' last brace on
        self._is_closed = False  # all is there but the tag
        self._tag = ""  # what there is of it

    def take(self, text: str) -> Passed:
        """Return what `text` brings."""
        if self._is_closed:
            return self._after_object(text)
        scanner = self._scanner
        passed, self._unsent = self._unsent, ""
        if not self._tail:
            passed += scanner.take(text, down_to=1)
            text = ""
            if scanner.depth == 1:
                passed, self._tail = passed[:-1], ["}"]
        if self._tail:
            self._tail.append(scanner.take(text, down_to=0))
            if not scanner.depth and not _says_again("".join(self._tail)):
                self._is_closed = True
                after = self._after_object(scanner.held)
                return Passed(passed + "}", after.is_whole, after.rest)
        if scanner.is_broken or not scanner.depth:
            return Passed(passed, False, "".join(self._tail) + scanner.held)  # what breaks off goes on as text
        return Passed(passed)

    def finish(self, *, cut: bool) -> Passed:  # noqa: ARG002
        """A call without its tag is whole if its object is, whoever ended it."""
        return Passed(is_whole=self._is_closed)

    def _after_object(self, text: str) -> Passed:
        """Drop braces too many, and the tag."""
        self._tag = (self._tag + text).lstrip("} \n\r\t")
        if self._tag.startswith(CLOSE_TAG):
            return Passed("", True, self._tag.removeprefix(CLOSE_TAG))
        return Passed() if CLOSE_TAG.startswith(self._tag) else Passed("", True, self._tag)


def _says_again(tail: str) -> bool:
    """Whether members after the arguments name the tool or its arguments once more: then nobody knows what holds."""
    try:
        return not _SAID.isdisjoint(json.loads('{"": 0' + tail[1:]))
    except (ValueError, RecursionError):
        return True
