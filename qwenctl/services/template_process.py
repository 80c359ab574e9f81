"""The child process that renders a chat template: started when first needed, killed when it takes too long.

Knows processes and what they died of; what is rendered and why belongs to chat_template.py, frames and time limits to
frame_exchange.py, the other end of the pipes is template_worker.py.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenctl.errors import TemplateFailed
from qwenctl.services.frame_exchange import as_frame, exchange, make_ready

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


class WaitingChild:
    """A child that waits for its template. It starts for 50 ms, which may pass while a model is loaded.

    `close` ends it, unless a TemplateProcess has taken it over.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = _spawn()
        self._stop = weakref.finalize(self, _end, self._process)

    def take(self) -> subprocess.Popen[bytes] | None:
        """Return the process, which is the caller's from now on; None: it was taken or closed, or it died."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return None
        self._stop.detach()
        return process

    def close(self) -> None:
        """End it if nobody took it."""
        self._process = None
        self._stop()


class TemplateProcess:
    """Renders `source` in a child that lives until `close`. Calls from several threads take turns.

    Args:
        source: the template.
        limits: of its renderings.
        waiting: a child that was started early; the first rendering takes it over.
    """

    def __init__(self, source: str, limits: TemplateLimits, waiting: WaitingChild | None = None) -> None:
        self._limits = limits
        self._first = {"source": source, "cpu_s": limits.cpu_s}
        self._first |= {"memory_bytes": limits.memory_bytes, "output_chars": limits.output_chars}
        self._lock = threading.Lock()
        self._waiting = waiting
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
        child = (self._waiting.take() if self._waiting else None) or _spawn()
        self._child, self._stop = child, weakref.finalize(self, _end, child)
        self._call(child, _frame(self._first), _START_LIMIT_S)
        return child

    def _call(self, child: subprocess.Popen[bytes], frame: bytes, time_s: float) -> dict[str, Any]:
        answer: dict[str, Any] | None = None
        is_late = False
        try:
            body = exchange(child, frame, time_s)
            answer = None if body is None else json.loads(body.decode("utf-8", "surrogatepass"))
        except TimeoutError:
            is_late = True
        except OSError:
            pass
        except BaseException:  # interrupted between question and answer: the pipe cannot be used again
            self._forget()
            raise
        if answer is None:
            raise TemplateFailed(self._why_it_died(is_late=is_late), _HINT)
        return answer

    def _why_it_died(self, *, is_late: bool) -> str:
        status = self._forget()
        if sys.platform != "win32" and status == -signal.SIGPROF:
            return f"the chat template needed more than {self._limits.cpu_s:g} s of processor time"
        if is_late:
            return f"the chat template ran longer than {self._limits.time_s:g} s"
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"the process that renders the chat template died ({how})"

    def _forget(self) -> int:
        child, self._child = self._child, None
        if child is None or self._stop is None:
            return 0
        self._stop()
        return int(child.returncode)


def _spawn() -> subprocess.Popen[bytes]:
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
    make_ready(child)
    return child


def _folders_of(*packages: str) -> list[str]:
    """Where `packages` are, without importing them: this process has no need of Jinja."""
    specs = [importlib.util.find_spec(name) for name in packages]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin})


def _frame(value: Mapping[str, Any]) -> bytes:
    return as_frame(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
