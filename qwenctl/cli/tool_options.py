"""--tool, --mcp and their like: what is read from them, how a call is shown, and who is asked whether it may be run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from qwenctl.cli.errors import one_line
from qwenctl.services.generation import Reply
from qwenctl.services.tools.approval import Approval, ApprovalMode, Permission
from qwenctl.services.tools.tool import ToolResult
from qwenctl.services.tools.tool_call import ToolCall
from qwenctl.services.tools.tool_chain import ToolChain, ToolUse, call_record
from qwenctl.services.tools.tool_sources import NamedTools, open_tools

F = TypeVar("F", bound=Callable[..., Any])
Ask = Callable[[str, dict[str, str]], str | None]

_LONGEST_SHOWN = 200
_ANSWERS: dict[str, Permission] = {"y": "yes", "n": "no", "a": "always"}
_CHOICES = {"y": "run it", "n": "do not", "a": "always run this tool"}
_HINT = "--approve-all runs calls without asking"


class ToolOptions:
    """What the command line says about tools."""

    def __init__(self, named: NamedTools, mode: ApprovalMode, n_rounds: int) -> None:
        self._named, self._mode, self._n_rounds = named, mode, n_rounds

    @contextmanager
    def opened(self, ask: Ask, warn: Callable[[str], None]) -> Iterator[ToolUse | None]:
        """Start the tools, None where there are none; they end with the block.

        Args:
            ask: shows a text and choices by their keys, and returns the key; None: nobody can be asked.
            warn: shows a line to the user.

        Raises:
            QwenctlError: a file or a server does not start.
        """
        if not self._named:
            yield None
            return

        def asked(call: ToolCall) -> Permission | None:
            key = ask(one_line(f"May {call.name} be run with {call.json_arguments} ?"), _CHOICES)  # all of them
            if key is None:
                warn(f"the call of {call.name} was refused: it needs a yes, and nobody gave one; {_HINT}")
            return None if key is None else _ANSWERS[key]

        with open_tools(self._named) as box:
            yield ToolUse(box, Approval(self._mode, asked), self._n_rounds)


def tool_options(function: F) -> F:
    """Add the options and call the command with `tools`, a `ToolOptions`."""

    @wraps(function)
    def command(
        *,
        tool: tuple[str, ...],
        mcp: tuple[str, ...],
        mcp_config: Path | None,
        tools_approve: ApprovalMode,
        approve_all: bool,
        tool_timeout: float,
        tool_rounds: int,
        **kwargs: Any,
    ) -> Any:
        named = NamedTools(tool, mcp, mcp_config, tool_timeout)
        return function(tools=ToolOptions(named, "all" if approve_all else tools_approve, tool_rounds), **kwargs)

    for option in reversed(_options()):
        option(command)
    return cast("F", command)


def call_line(call: ToolCall) -> str:
    """Return a call as a line: `▸ get_weather(city="Paris")`."""
    arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    return f"▸ {call.name}({_shortened(arguments)})"


def result_line(result: ToolResult) -> str:
    """Return the beginning of a result as a line, and how much more there is."""
    first, *rest = result.text.strip().splitlines() or ["nothing"]
    more = f" … ({len(rest) + 1:,} lines, {len(result.text):,} characters)" if rest else ""
    return f"◂ {'failed: ' if result.is_error else ''}{_shortened(first)}{more}"


def chain_values(answering: Reply | ToolChain) -> dict[str, Any]:
    """Return the calls of an answer as JSON values; nothing where there were no tools."""
    return {"tool_calls": [call_record(one) for one in answering.calls]} if isinstance(answering, ToolChain) else {}


def chain_note(answering: Reply | ToolChain) -> str | None:
    """Return what the user should know of how the calls went on."""
    if isinstance(answering, ToolChain) and answering.ran_out:
        return "the results of tools went back to the model as often as --tool-rounds allows"
    return None


def terminal_is_there() -> bool:
    """Whether somebody can be asked: a question is never put to a pipe."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _shortened(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _options() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--tool",
            multiple=True,
            metavar="FILE.py[:FUNCTION]",
            help="Let the model call the functions of a Python file, or one of them; may be repeated.",
        ),
        click.option(
            "--mcp",
            multiple=True,
            metavar="COMMAND",
            help="Let the model use the tools of the MCP server that COMMAND starts; may be repeated.",
        ),
        click.option(
            "--mcp-config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help='Start the MCP servers of a JSON file with "mcpServers".',
        ),
        click.option(
            "--tools-approve",
            type=click.Choice(["ask", "all", "none"]),
            default="ask",
            show_default=True,
            help="Ask before each call, run all of them, or none.",
        ),
        click.option("--approve-all", is_flag=True, help="The same as --tools-approve all."),
        click.option(
            "--tool-timeout",
            type=click.FloatRange(0.1, 86_400),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="End a call that takes longer.",
        ),
        click.option(
            "--tool-rounds",
            type=click.IntRange(1, 1000),
            default=10,
            show_default=True,
            metavar="N",
            help="Let the model see results N times; then it must answer.",
        ),
    ]
