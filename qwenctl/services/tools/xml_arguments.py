"""The arguments of a call in tags throughout, as they come. Pure.

A value that is text is passed on as it is written, but for what may be its end; any other once it is whole. The last
brace of the arguments is sent when `</function>` is there. A key that comes twice is passed on twice: readers of JSON
take the last of them, as xml_call.py does, which says what the tags mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwenctl.services.tools.call_parts import OpenedCall, Passed
from qwenctl.services.tools.tool_call import CLOSE_TAG
from qwenctl.services.tools.xml_call import (
    FUNCTION_END,
    LENIENT_END,
    PARAMETER,
    VALUE_END,
    is_text,
    parameter_types,
    typed_value,
)

_OPENING = re.compile(r"\s*<function=([^>\n]+)>(?=\s*<parameter=[^>\n]{1,999}>)")
_BEGUN_PARAMETER = re.compile(r"<parameter=[^>\n]{0,999}>?")
_NEXT_TAGS = ("<parameter=", "</function>")
_BEGUN_TAGS = sorted({tag[:n] for tag in ("</parameter>", CLOSE_TAG, *_NEXT_TAGS) for n in range(1, len(tag))})
_MAY_BE_THE_END = re.compile(
    rf"(?:\n?</parameter>)?\s{{0,40}}(?:{CLOSE_TAG}\s{{0,40}}|{'|'.join(map(re.escape, _BEGUN_TAGS))})?\Z"
)


def open_xml_call(body: str, tools: Sequence[Mapping[str, Any]]) -> OpenedCall | None:
    """Return the call that `body` begins with; None: it is not certain that there is one.

    Args:
        tools: in OpenAI's form.
    """
    opening = _OPENING.match(body)
    name = opening[1].strip() if opening else ""
    if opening is None or all(tool.get("function", tool)["name"] != name for tool in tools):
        return None
    return OpenedCall(name, opening.end(), _XmlArguments(parameter_types(tools, name)))


class _XmlArguments:
    """Takes text from the first parameter on.

    Args:
        types: of the parameters.
    """

    def __init__(self, types: Mapping[str, frozenset[str]]) -> None:
        self._all_types = types
        self._held = ""  # may yet be part of a tag
        self._before = "{"  # the next key
        self._in_value = False
        self._types: frozenset[str] = frozenset()  # of the value
        self._value: list[str] = []  # so far, where it is not passed on

    def take(self, text: str) -> Passed:
        """Return what `text` brings."""
        self._held += text
        return self._read(lenient=False)

    def finish(self, *, cut: bool) -> Passed:
        """Closing tags may be missing where the model ended the call itself."""
        if cut:
            return Passed(is_whole=False)
        self._held = self._held.removesuffix(CLOSE_TAG)
        return self._read(lenient=True)

    def _read(self, *, lenient: bool) -> Passed:
        passed: list[str] = []
        while not self._in_value or self._ends_value(passed, lenient):
            if not self._begins_value(passed, lenient):
                is_whole = self._is_whole(lenient)
                passed += "}" if is_whole else ""
                return Passed("".join(passed), is_whole, "" if is_whole is None else self._held)
        return Passed("".join(passed))

    def _begins_value(self, passed: list[str], lenient: bool) -> bool:
        parameter = PARAMETER.match(self._held)
        if not parameter or (parameter[0].endswith(">") and parameter.end() == len(self._held) and not lenient):
            return False  # the line break after the tag may be missing yet
        key = parameter[1].strip()
        self._held = self._held[parameter.end() :]
        self._in_value, self._types = True, self._all_types.get(key, frozenset())
        passed.append(f"{self._before}{json.dumps(key, ensure_ascii=False)}: {self._quote}")
        self._before = ", "
        return True

    def _ends_value(self, passed: list[str], lenient: bool) -> bool:
        """Pass on what is certain of the value; return whether that is all of it."""
        end = VALUE_END.search(self._held) or (LENIENT_END.search(self._held) if lenient else None)
        found = end or _MAY_BE_THE_END.search(self._held)
        begin = found.start() if found else len(self._held)
        text, self._held = self._held[:begin], self._held[end.end() if end else begin :]
        if self._quote:
            passed.append(json.dumps(text, ensure_ascii=False)[1:-1])
        else:
            self._value.append(text)
        if end:
            whole = "".join(self._value)
            passed.append(self._quote or json.dumps(typed_value(whole, self._types), ensure_ascii=False))
            self._in_value, self._value = False, []
        return end is not None

    @property
    def _quote(self) -> str:
        """What stands around the value where it is passed on as it comes; nothing where it waits for its end."""
        return '"' if is_text(self._types) else ""

    def _is_whole(self, lenient: bool) -> bool | None:
        """Whether the call is over here, and whole; None: not over."""
        end = FUNCTION_END.match(self._held)
        if end:
            self._held = self._held[end.end() :]
            return True
        self._held = self._held.lstrip()
        if lenient:
            return not self._held
        begun = any(tag.startswith(self._held) for tag in _NEXT_TAGS) or _BEGUN_PARAMETER.fullmatch(self._held)
        return None if begun else False
