"""Opens what a user named: files of functions, MCP servers. Loads the package `mcp` only where there is a server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qwenctl.services.tools.mcp_config import McpServer, parse_mcp_command, read_mcp_config
from qwenctl.services.tools.python_tools import PythonTools
from qwenctl.services.tools.tool import ToolSource
from qwenctl.services.tools.tool_box import ToolBox


@dataclass(frozen=True, slots=True)
class NamedTools:
    """What was named; all of it may be empty."""

    files: Sequence[str] = ()  # FILE.py or FILE.py:FUNCTION
    mcp_commands: Sequence[str] = ()
    mcp_config: Path | None = None
    limit_s: float = 60.0  # of a call

    def __bool__(self) -> bool:
        return bool(self.files or self.mcp_commands or self.mcp_config)


def open_tools(named: NamedTools) -> ToolBox:
    """Start everything, and return the box that ends it again.

    Raises:
        InvalidRequest: a file, a function or a configuration is not there or makes no sense.
        QwenctlError: a file cannot be imported, or a server does not start.
    """
    servers = [parse_mcp_command(command) for command in named.mcp_commands]
    servers += read_mcp_config(named.mcp_config) if named.mcp_config else []
    with ExitStack() as stack:  # ends what has started if something does not
        sources: list[ToolSource] = []
        for spec in named.files:
            functions = PythonTools(spec, named.limit_s)
            stack.callback(functions.close)
            sources.append(functions)
        if servers:
            sources += _started(servers, named.limit_s, stack)
        return ToolBox(sources, stack.pop_all().close)


def _started(servers: Sequence[McpServer], limit_s: float, stack: ExitStack) -> Sequence[ToolSource]:
    from qwenctl.services.tools.mcp_servers import McpServers  # noqa: PLC0415  a second that only servers need pay

    running = McpServers(servers, limit_s)
    stack.callback(running.close)
    return running.sources
