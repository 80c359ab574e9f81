"""Who says yes to a call before it is run. Pure but for the question itself, which a command asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from qwenctl.services.tools.tool_call import ToolCall

ApprovalMode = Literal["ask", "all", "none"]
Permission = Literal["yes", "no", "always"]

NOT_APPROVED = "the user did not approve this call; it was not run"


class Approval:
    """Decides on each call.

    Args:
        mode: `all`: every call is approved, `none`: no call is.
        ask: shows a call to a person; returns None where nobody can be asked.
    """

    def __init__(self, mode: ApprovalMode, ask: Callable[[ToolCall], Permission | None]) -> None:
        self._mode, self._ask = mode, ask
        self._always: set[str] = set()

    def allows(self, call: ToolCall) -> bool:
        """Return whether `call` may be run; "always" is remembered for the tool."""
        if self._mode != "ask":
            return self._mode == "all"
        if call.name in self._always:
            return True
        reply = self._ask(call)
        if reply == "always":
            self._always.add(call.name)
        return reply in ("yes", "always")
