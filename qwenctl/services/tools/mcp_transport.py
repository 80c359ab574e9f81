"""The pipes to an MCP server: lines of JSON-RPC both ways, with limits; the server's process ends with them.

Like `mcp.client.stdio`, which has no limit of what it holds: here a line that does not end closes the connection, and
the last words on standard error are kept for the case that the server dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import mcp_types
from anyio.abc import ByteReceiveStream, ObjectReceiveStream, ObjectSendStream, Process
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from qwenctl.services.tools.mcp_config import McpServer

MAX_LINE_BYTES = 16 << 20
_LAST_BYTES = 2000  # of standard error
_GRACE_S = 2.0  # from the end of its input to a signal, and from one signal to the next

Incoming = ObjectReceiveStream[SessionMessage | Exception]
Outgoing = ObjectSendStream[SessionMessage]


class LastWords:
    """The end of what a server wrote to its standard error."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> None:
        """Keep the last of it."""
        self._data = (self._data + data)[-_LAST_BYTES:]

    @property
    def line(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self._data.decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")


@asynccontextmanager
async def server_pipes(server: McpServer, last_words: LastWords) -> AsyncGenerator[tuple[Incoming, Outgoing], None]:
    """Start `server` in a session of its own; leaving ends it and what it started.

    Raises:
        OSError, ValueError: it cannot be started.
    """
    with anyio.CancelScope(shield=True):  # one that was started half would be ended by nobody
        process = await anyio.open_process(
            [server.command, *server.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=get_default_environment() | dict(server.env),
            cwd=server.cwd,
            start_new_session=True,  # Ctrl-C is ours
        )
    to_session, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, process, to_session)
        tasks.start_soon(_write, process, from_session)
        tasks.start_soon(_listen, process, last_words)
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
                with suppress(OSError), anyio.move_on_after(_GRACE_S):
                    await process.aclose()
            tasks.cancel_scope.cancel()
            for stream in (to_session, incoming, outgoing, from_session):
                stream.close()


async def _read(process: Process, to_session: ObjectSendStream[SessionMessage | Exception]) -> None:
    buffer = bytearray()
    async with to_session:
        async for piece in _pieces(process.stdout):
            buffer += piece
            lines = []
            if b"\n" in piece:
                *lines, rest = bytes(buffer).split(b"\n")
                buffer[:] = rest
            for line in filter(bytes.strip, lines):
                try:
                    await to_session.send(_message(line))
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return
            if len(buffer) > MAX_LINE_BYTES:
                return  # it floods: the connection is over


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _write(process: Process, from_session: ObjectReceiveStream[SessionMessage]) -> None:
    if process.stdin is None:
        return
    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
        async for item in from_session:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            await process.stdin.send(text.encode() + b"\n")


async def _listen(process: Process, last_words: LastWords) -> None:
    async for piece in _pieces(process.stderr):
        last_words.add(piece)


async def _pieces(stream: ByteReceiveStream | None) -> AsyncGenerator[bytes, None]:
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
        while stream is not None:
            yield await stream.receive()


async def _end(process: Process) -> None:
    """Close its input, then insist; its whole group, so that nothing it started stays."""
    with suppress(OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
        if process.stdin is not None:
            await process.stdin.aclose()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with suppress(OSError):
                os.killpg(process.pid, number)
        with anyio.move_on_after(_GRACE_S):
            while process.returncode is None:
                await anyio.sleep(0.01)
        if process.returncode is not None:
            break
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it
