"""What a tool is to us: a name, a schema, and something that runs it. Values and a contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that a model may call."""

    name: str  # as the model writes it
    description: str
    parameters: Mapping[str, Any]  # JSON schema of an object
    origin: str  # where it comes from, for people
    own_name: str  # as its source knows it

    @property
    def definition(self) -> Mapping[str, Any]:
        """The tool in OpenAI's form, which is what templates are given."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call."""

    text: str
    is_error: bool = False


class ToolSource(Protocol):
    """A file of functions or a server, running."""

    @property
    def tools(self) -> Sequence[Tool]:
        """What it offers."""

    def run(self, tool: Tool, arguments: Mapping[str, Any], cancelled: Callable[[], bool]) -> ToolResult:
        """Run a tool. Ends soon after `cancelled` says so; never raises for what the tool does."""
