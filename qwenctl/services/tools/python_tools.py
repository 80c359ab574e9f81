"""The functions of a Python file as tools. They run in a child of their own (python_tool_worker.py), with a time limit.

The child is started once and ends with us; one whose function ran too long is killed, and the next call starts another.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.tools.tool import Tool, ToolResult

_START_LIMIT_S = 30.0
_POLL_S = 0.1
_MAX_ANSWER_BYTES = 16 << 20  # python_tool_worker.py stays below it, unless a file has very many tools
_START = (
    f"import sys; sys.path.append({str(Path(__file__).parents[3])!r}); "
    "from qwenctl.services.tools.python_tool_worker import main; main()"
)


class PythonTools:
    """Starts the child and asks what it offers.

    Args:
        spec: `FILE.py`, or `FILE.py:FUNCTION` for one function of it.
        limit_s: how long a call may take.

    Raises:
        InvalidRequest: there is no such file or function.
        QwenctlError: the file cannot be imported.
    """

    def __init__(self, spec: str, limit_s: float) -> None:
        self._path, self._function = _parse(spec)
        self._limit_s = limit_s
        self._child: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[..., Any] | None = None
        self._buffer = bytearray()
        answer = self._start(lambda: False)
        self.tools: Sequence[Tool] = tuple(
            Tool(one["name"], one["description"], one["parameters"], self._path.stem, one["name"])
            for one in answer["tools"]
        )

    def run(self, tool: Tool, arguments: Mapping[str, Any], cancelled: Callable[[], bool]) -> ToolResult:
        """Run a function; errors are results."""
        try:
            if self._child is None:
                self._start(cancelled)
            answer = self._ask({"call": tool.own_name, "arguments": dict(arguments)}, self._limit_s, cancelled)
        except QwenctlError as error:
            return ToolResult(error.message, is_error=True)
        return ToolResult(answer.get("text", answer.get("error", "")), is_error="error" in answer)

    def close(self) -> None:
        """End the child, whatever it does."""
        if self._stop is not None:
            self._stop()
        self._child = None

    def _start(self, cancelled: Callable[[], bool]) -> dict[str, Any]:
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours, and the whole group can be ended
        )
        self._stop = weakref.finalize(self, _end, self._child)
        self._buffer.clear()
        question = {"path": str(self._path), "function": self._function}
        answer = self._ask(question, _START_LIMIT_S, cancelled)
        if "error" in answer:
            self.close()
            raise QwenctlError(f"{self._path} offers no tools: {answer['error']}")
        return answer

    def _ask(self, question: Mapping[str, Any], limit_s: float, cancelled: Callable[[], bool]) -> dict[str, Any]:
        child = cast("subprocess.Popen[bytes]", self._child)
        try:
            _send(cast("IO[bytes]", child.stdin), json.dumps(question).encode() + b"\n")
            line = self._line(cast("IO[bytes]", child.stdout), limit_s, cancelled)
        except OSError:
            line = b""
        except BaseException:  # too late, stopped, interrupted: what it answers now nobody asked for
            self.close()
            raise
        if not line:
            self.close()
            raise QwenctlError("the process of the tool ended before it answered")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self, pipe: IO[bytes], limit_s: float, cancelled: Callable[[], bool]) -> bytes:
        end_s = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            if cancelled():
                raise QwenctlError("the tool was stopped")
            if time.monotonic() > end_s:
                raise QwenctlError(f"the tool took longer than {limit_s:g} s, and was ended")
            if len(self._buffer) > _MAX_ANSWER_BYTES:
                raise QwenctlError(f"the tool answered more than {_MAX_ANSWER_BYTES >> 20} MiB, and was ended")
            if select.select([pipe], [], [], _POLL_S)[0]:
                piece = pipe.read(1 << 16)
                if not piece:
                    return b""
                self._buffer += piece
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line


def _parse(spec: str) -> tuple[Path, str | None]:
    path, colon, function = spec.rpartition(":")
    if not colon or not function.isidentifier():
        path, function = spec, ""
    file = Path(path)
    if not file.is_file():
        raise InvalidRequest(f"there is no file {path} with tools", "give --tool FILE.py or --tool FILE.py:FUNCTION")
    return file.resolve(), function or None


def _send(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)  # and what its functions have started
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
