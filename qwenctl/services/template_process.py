"""The child process that renders a chat template: started when first needed, killed when it takes too long.

Knows frames, deadlines and processes; what is rendered and why belongs to chat_template.py, the other end of the pipes
is template_worker.py.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from qwenctl.errors import TemplateFailed

_START_LIMIT_S = 30.0  # an import on a loaded machine; not part of a rendering
_HINT = "the template comes with the model file; another conversion of the model may carry a sound one"


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What the renderings of one call may take together, for messages of a usual size.

    Long messages add to it: 1 s for every 10 MB of them, 16 bytes of memory and 4 characters of output a byte.
    """

    time_s: float = 2.0  # by the clock; the child's start does not count
    cpu_s: float = 1.5
    memory_bytes: int = 256 << 20  # address space
    output_chars: int = 16 << 20
    source_bytes: int = 1 << 20  # the template itself


class TemplateProcess:
    """Renders `source` in a child that lives until `close`. Calls from several threads take turns."""

    def __init__(self, source: str, limits: TemplateLimits) -> None:
        self._limits = limits
        self._first = {"source": source, "cpu_s": limits.cpu_s}
        self._first |= {"memory_bytes": limits.memory_bytes, "output_chars": limits.output_chars}
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[..., Any] | None = None

    def render(self, contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Render once for each of `contexts`; a result holds `text`, or `error` and `message`.

        Raises:
            TemplateFailed: the template was stopped, or the child cannot be started.
        """
        with self._lock:
            child = self._child or self._start()
            frame = _frame({"contexts": list(contexts)})
            answer = self._call(child, frame, self._limits.time_s + len(frame) / 10e6)
        results: list[dict[str, str]] = answer["results"]
        return results

    def close(self) -> None:
        """End the child. A later call starts a new one."""
        with self._lock:
            self._forget()

    def _start(self) -> subprocess.Popen[bytes]:
        folders = [*_folders_of("jinja2", "markupsafe"), str(Path(__file__).parent)]
        code = f"import sys; sys.path += {folders!r}; from template_worker import main; main()"
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is meant for us, not for the child
        )
        self._child, self._stop = child, weakref.finalize(self, _end, child)
        self._call(child, _frame(self._first), _START_LIMIT_S)
        return child

    def _call(self, child: subprocess.Popen[bytes], frame: bytes, time_s: float) -> dict[str, Any]:
        deadline = _Deadline(child, time_s)
        try:
            answer = _exchange(child, frame)
        except OSError:
            answer = None
        except BaseException:  # interrupted between question and answer: the pipe cannot be used again
            self._forget()
            raise
        finally:
            deadline.cancel()
        if answer is None:
            raise TemplateFailed(self._why_it_died(deadline), _HINT)
        return answer

    def _why_it_died(self, deadline: _Deadline) -> str:
        status = self._forget()
        if sys.platform != "win32" and status == -signal.SIGPROF:
            return f"the chat template needed more than {self._limits.cpu_s:g} s of processor time"
        if deadline.expired:
            return f"the chat template ran longer than {self._limits.time_s:g} s"
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"the process that renders the chat template died ({how})"

    def _forget(self) -> int:
        child, self._child = self._child, None
        if child is None or self._stop is None:
            return 0
        self._stop()
        return int(child.returncode)


class _Deadline:
    """Kills `child` after `seconds`, whatever the caller waits for meanwhile."""

    def __init__(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        self.expired = False
        self._child = child
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        self.expired = True
        self._child.kill()

    def cancel(self) -> None:
        self._timer.cancel()
        self._timer.join()


def _folders_of(*packages: str) -> list[str]:
    """Where `packages` are, without importing them: this process has no need of Jinja."""
    specs = [importlib.util.find_spec(name) for name in packages]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin})


def _frame(value: Mapping[str, Any]) -> bytes:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return struct.pack(">I", len(body)) + body


def _exchange(child: subprocess.Popen[bytes], frame: bytes) -> dict[str, Any] | None:
    """Send `frame` and return the answer; None when the child ends first."""
    to_child, from_child = cast("IO[bytes]", child.stdin), cast("IO[bytes]", child.stdout)
    data = memoryview(frame)
    while data:
        data = data[to_child.write(data) or 0 :]
    head = _read(from_child, 4)
    answer = _read(from_child, struct.unpack(">I", head)[0]) if head else None
    if answer is None:
        return None
    decoded: dict[str, Any] = json.loads(answer.decode("utf-8", "surrogatepass"))
    return decoded


def _read(pipe: IO[bytes], n_bytes: int) -> bytes | None:
    data = bytearray()
    while len(data) < n_bytes:
        piece = pipe.read(min(n_bytes - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
