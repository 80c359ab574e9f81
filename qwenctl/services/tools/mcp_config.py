"""Which MCP servers are to be started: a command line each, or the `mcpServers` JSON that many programs share.

    {"mcpServers": {"NAME": {"command": "…", "args": ["…"], "env": {"KEY": "value"}, "cwd": "…"}}}

Only servers that are started as a process are taken; one with a `url` is refused by name. Pure but for reading a file.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenctl.errors import InvalidRequest

_MAX_BYTES = 1 << 20
_HINT = '{"mcpServers": {"NAME": {"command": "…", "args": ["…"], "env": {…}}}}'


@dataclass(frozen=True, slots=True)
class McpServer:
    """How one server is started."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  # beside the few variables that every server gets
    cwd: str | None = None


def parse_mcp_command(text: str) -> McpServer:
    """Return the server that a command line starts; it is called as its program is.

    Raises:
        InvalidRequest: an empty command, or quotes that do not match.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(f"the command of an MCP server cannot be read: {error}: {text[:80]}") from error
    if not words:
        raise InvalidRequest("the command of an MCP server is empty", 'give --mcp "PROGRAM ARGUMENTS"')
    return McpServer(Path(words[0]).stem or words[0], words[0], tuple(words[1:]))


def read_mcp_config(path: Path) -> tuple[McpServer, ...]:
    """Return the servers of a file; those that say `"disabled": true` are left out.

    Raises:
        InvalidRequest: it cannot be read, or is not of this form.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not JSON: {error}", _HINT) from error
    servers = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(servers, dict):
        raise InvalidRequest(f'{path} has no "mcpServers"', _HINT)
    active = {name: one for name, one in servers.items() if not (isinstance(one, dict) and one.get("disabled") is True)}
    return tuple(_server(path, name, one) for name, one in active.items())


def _server(path: Path, name: str, entry: Any) -> McpServer:
    place = f"the MCP server {name!r} of {path}"
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{place} is no object", _HINT)
    if "command" not in entry:
        kind = "is reached over the network, which is not supported" if "url" in entry else "has no command"
        raise InvalidRequest(f"{place} {kind}", _HINT)
    args, env, cwd = entry.get("args", []), entry.get("env", {}), entry.get("cwd")
    texts = [entry["command"], *(args if isinstance(args, list) else [None])]
    texts += [*env.keys(), *env.values()] if isinstance(env, dict) else [None]
    if any(not isinstance(text, str) or "\0" in text for text in texts) or not isinstance(cwd, str | None):
        raise InvalidRequest(f"{place} must have a text as command, texts in args and env", _HINT)
    return McpServer(name, entry["command"], tuple(args), env, cwd)
