"""MCP servers as sources of tools, over stdio, with the package `mcp`: one event loop in a thread for all of them.

A server is not trusted to answer: starting, listing and each call have a time limit, and one that died says so in the
result. What it is told about us is the program's name and version; it gets no sampling, roots or elicitation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio
import mcp_types
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import ClientSession

from qwenctl import __version__
from qwenctl.errors import QwenctlError
from qwenctl.services.tools.mcp_config import McpServer
from qwenctl.services.tools.mcp_transport import LastWords, server_pipes
from qwenctl.services.tools.tool import Tool, ToolResult

START_LIMIT_S = 60.0  # a server may be fetched by its command before it starts
_MAX_PAGES = 20
_POLL_S = 0.1
_ANY_OBJECT = {"type": "object"}
_Opened = tuple[ClientSession, list[mcp_types.Tool]]
T = TypeVar("T")


class McpSource:
    """One running server."""

    def __init__(self, server: McpServer, portal: BlockingPortal, limit_s: float, start_limit_s: float) -> None:
        self._server, self._portal, self._limit_s = server, portal, limit_s
        self._last_words = LastWords()
        self._leave = anyio.Event()
        ready: Future[_Opened] = Future()
        self._life = portal.start_task_soon(_live, _open(server, self._last_words, start_limit_s), ready, self._leave)
        try:
            self._session, tools = _patiently(ready)
        except Exception as error:
            raise QwenctlError(f"the MCP server {server.name} did not start: {self._why(error)}") from error
        self.tools: Sequence[Tool] = tuple(
            Tool(one.name, one.description or "", one.input_schema or _ANY_OBJECT, server.name, one.name)
            for one in tools
        )

    def run(self, tool: Tool, arguments: Mapping[str, Any], cancelled: Callable[[], bool]) -> ToolResult:
        """Call a tool; whatever goes wrong is the result."""
        call: Future[Any] = self._portal.start_task_soon(_call, self._session, tool.own_name, arguments, self._limit_s)
        while True:
            try:
                return _result(call.result(_POLL_S))
            except NotYet:
                if call.done():
                    return ToolResult(f"the tool took longer than {self._limit_s:g} s", is_error=True)
                if cancelled():
                    call.cancel()
                    return ToolResult("the tool was stopped", is_error=True)
            except Exception as error:
                return ToolResult(f"the MCP server {self._server.name} failed: {self._why(error)}", is_error=True)

    def close(self) -> None:
        """End the server."""
        self._portal.call(self._leave.set)
        _patiently(self._life)

    def _why(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = str(error) or type(error).__name__
        words = self._last_words.line
        return f"{said} (it said: {words[:200]})" if words else said


class McpServers:
    """Starts servers and keeps their loop.

    Raises:
        QwenctlError: one did not start; those before it are ended.
    """

    def __init__(self, servers: Sequence[McpServer], limit_s: float, start_limit_s: float = START_LIMIT_S) -> None:
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # what a server does wrong is in our own words
        self.sources: list[McpSource] = []
        with ExitStack() as stack:  # on an error, the portal is told of it: it does not wait for what still runs
            portal = stack.enter_context(start_blocking_portal())
            for server in servers:
                self.sources.append(McpSource(server, portal, limit_s, start_limit_s))
                stack.callback(self.sources[-1].close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End all servers and the loop."""
        self._stack.close()


def _patiently(future: Future[T]) -> T:
    """Its result, looked for again and again.

    A signal that comes just before a lock is waited for does not end the wait: Ctrl-C would be heard when it is over.
    """
    while not future.done():
        with suppress(NotYet):
            future.exception(_POLL_S)
    return future.result()


async def _live(opened: AbstractAsyncContextManager[_Opened], ready: Future[_Opened], leave: anyio.Event) -> None:
    """Open it, say so, and close it when asked to."""
    try:
        async with opened as both:
            ready.set_result(both)
            await leave.wait()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(error)
        raise


@asynccontextmanager
async def _open(server: McpServer, last_words: LastWords, start_limit_s: float) -> AsyncGenerator[_Opened, None]:
    info = mcp_types.Implementation(name="qwenctl", version=__version__)
    async with (
        server_pipes(server, last_words) as (incoming, outgoing),
        ClientSession(incoming, outgoing, client_info=info) as session,
    ):
        with anyio.fail_after(start_limit_s):
            await session.initialize()
            tools = await _tools(session)
        yield session, tools


async def _tools(session: ClientSession) -> list[mcp_types.Tool]:
    tools: list[mcp_types.Tool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await session.list_tools(params=mcp_types.PaginatedRequestParams(cursor=cursor))
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return tools


async def _call(session: ClientSession, name: str, arguments: Mapping[str, Any], limit_s: float) -> Any:
    with anyio.fail_after(limit_s):
        return await session.call_tool(name, dict(arguments))


def _result(answer: Any) -> ToolResult:
    """The texts of a result; what is no text is named."""
    if not isinstance(answer, mcp_types.CallToolResult):
        return ToolResult("the tool asks for something that is not supported", is_error=True)
    texts = [_text(block) for block in answer.content]
    if not texts and answer.structured_content is not None:
        texts = [json.dumps(answer.structured_content, ensure_ascii=False)]
    return ToolResult("\n".join(texts), is_error=bool(answer.is_error))


def _text(block: Any) -> str:
    if isinstance(block, mcp_types.TextContent):
        return block.text
    resource = getattr(block, "resource", None)
    if isinstance(resource, mcp_types.TextResourceContents):
        return resource.text
    return f"[{getattr(block, 'type', 'something')} that is no text was left out]"
