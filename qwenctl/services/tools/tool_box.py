"""All tools of a run under one roof: unique names, checked arguments, results that are not endless."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.plain_schema import plain_schema
from qwenctl.services.structured.value_check import ValueCheck
from qwenctl.services.tools.tool import Tool, ToolResult, ToolSource
from qwenctl.services.tools.tool_call import ToolCall

MAX_RESULT_CHARACTERS = 20_000
MAX_TOOLS = 128


class ToolBox:
    """Runs calls by name.

    Args:
        sources: started ones. Where two offer the same name, the later one's is `ORIGIN_name`.
        close: ends them, when the box is left.

    Raises:
        InvalidRequest: there are too many tools.
    """

    def __init__(self, sources: Sequence[ToolSource], close: Callable[[], None] = lambda: None) -> None:
        self._close = close
        self._owners: dict[str, tuple[ToolSource, Tool]] = {}
        for source in sources:
            for tool in source.tools:
                name = _free_name(tool, self._owners)
                self._owners[name] = source, replace(tool, name=name)
        if len(self._owners) > MAX_TOOLS:
            close()
            raise InvalidRequest(f"there are {len(self._owners)} tools; at most {MAX_TOOLS} can be offered to a model")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What can be called."""
        return tuple(tool for _, tool in self._owners.values())

    @property
    def definitions(self) -> tuple[Mapping[str, Any], ...]:
        """The same in OpenAI's form."""
        return tuple(tool.definition for tool in self.tools)

    def refusal(self, call: ToolCall) -> ToolResult | None:
        """Return what keeps a call from being run: no such tool, or arguments that its schema does not allow."""
        if call.name not in self._owners:
            known = ", ".join(self._owners)
            return ToolResult(f"there is no tool {call.name!r}; there are: {known}", is_error=True)
        try:
            document = plain_schema(self._owners[call.name][1].parameters).document
            failures = ValueCheck(document).failures(dict(call.arguments))
        except InvalidRequest:  # a schema that we cannot check is the tool's own to enforce
            return None
        return ToolResult(f"the arguments are wrong: {failures[0]}", is_error=True) if failures else None

    def run(self, call: ToolCall, cancelled: Callable[[], bool] = lambda: False) -> ToolResult:
        """Run a call that nothing refuses; a long result is cut, which its text says."""
        source, tool = self._owners[call.name]
        result = source.run(tool, call.arguments, cancelled)
        n_more = len(result.text) - MAX_RESULT_CHARACTERS
        if n_more <= 0:
            return result
        text = f"{result.text[:MAX_RESULT_CHARACTERS]}\n[{n_more:,} more characters were cut off]"
        return replace(result, text=text)


def _free_name(tool: Tool, taken: Mapping[str, object]) -> str:
    """Return a name that templates and grammars can bear and no other tool has."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", tool.name)[:100] or "tool"
    if clean not in taken:
        return clean
    prefixed = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{tool.origin}_{clean}")[-120:]
    return next(name for name in (prefixed, *(f"{prefixed}_{n}" for n in range(2, 1000))) if name not in taken)
