"""The parent's end of engine_worker.py: start the process, call into it, learn how it ended.

Two threads do all reading and writing, so that an interrupted caller (KeyboardInterrupt) cannot tear a message: sending
is putting into a queue, which signal handlers may do as well, and an answer that nobody waits for any more is still
read and taken. Knows nothing of what the calls mean.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from qwenctl.services.engine_errors import decode_error
from qwenctl.services.engine_messages import MessageError, decode, frame_of, read_frame

T = TypeVar("T")

_LAST_BYTES = 4096
# A signal that arrives after Python last looked for one and before it sleeps on a lock does not wake it.
_LOOK_FOR_SIGNALS_S = 0.2
_END_LIMIT_S = 5.0  # from the end of its output to the end of the process

# Nothing that lies in the current folder is to be imported (-P), but the package that this file belongs to is.
_START = (
    f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); "
    "from qwenctl.services.engine_worker import main; main()"
)


@dataclass(frozen=True, slots=True)
class Death:
    """How the process ended."""

    status: int  # exit code, or minus the number of a signal
    log: tuple[str, ...]  # the last lines of its standard error
    nonsense: str | None = None  # the message of its that made no sense, for which it was killed


class ChildDied(Exception):
    """The process ended before it answered."""

    def __init__(self, death: Death) -> None:
        super().__init__(f"exit status {death.status}")
        self.death = death


class _Call:
    """A question and its answer.

    Its end is a bare lock: a KeyboardInterrupt inside an Event, whose parts are Python, could leave the
    Event's own lock taken, and the reading thread would wait for that for ever.
    """

    __slots__ = ("error", "take", "value", "wake")

    def __init__(self, take: Callable[[Any], Any]) -> None:
        self.take = take
        self.value: Any = None
        self.error: Exception | None = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def wait(self, limit_s: float) -> bool:
        """Wait for the answer; False when there is none in time."""
        deadline = time.monotonic() + limit_s
        while not self.wake.acquire(timeout=_LOOK_FOR_SIGNALS_S):
            if time.monotonic() > deadline:
                return False
        return True

    def end(self, error: Exception | None = None) -> None:
        """Let the caller go on."""
        self.error = error or self.error
        self.wake.release()


class EngineChild:
    """A process and the calls under way.

    Args:
        command: what to run; None: engine_worker.py.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self.death: Death | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            command or [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is meant for us, who may want an answer to the end
        )
        self._ids = count(1)
        self._calls: dict[int, _Call] = {}
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def call(self, name: str, take: Callable[[Any], T], *, limit_s: float = math.inf, **fields: object) -> T:
        """Return what `take` makes of the answer.

        Args:
            name: of the call.
            take: turns the answer from JSON to what it means; runs on the reading thread, also if the caller has been
                interrupted meanwhile. A `MessageError` of its ends the process.
            limit_s: how long to wait.
            fields: of the message.

        Raises:
            ChildDied: the process ended before or meanwhile.
            TimeoutError: no answer in time; it may still come.
            MessageTooLarge: the question is; nothing was sent.
            Exception: what the call raised over there.
        """
        number = next(self._ids)
        frame = frame_of({"id": number, "call": name, **fields})
        call = self._calls[number] = _Call(take)
        if self.death:  # set before the calls under way are ended: either this sees it or they do
            self._calls.pop(number, None)
            raise ChildDied(self.death)
        self._outgoing.put(frame)
        if not call.wait(limit_s):
            raise TimeoutError(f"no answer to {name} within {limit_s:g} s")
        if call.error:
            raise call.error
        return cast("T", call.value)

    def tell(self, name: str, **fields: object) -> None:
        """Send what has no answer. Never waits; callable from signal handlers."""
        self._outgoing.put(frame_of({"call": name, **fields}))

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self, *, limit_s: float = _END_LIMIT_S) -> None:
        """Let the process end by itself, kill it if it does not, and free everything."""
        self._outgoing.put(None)
        self._reap(limit_s)
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe:
                pipe.close()

    def _reap(self, limit_s: float) -> int:
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._process.wait()

    def _write(self) -> None:
        pipe = cast("Any", self._process.stdin)
        try:
            while (frame := self._outgoing.get()) is not None:
                data = memoryview(frame)
                while data:
                    data = data[pipe.write(data) :]
            pipe.close()
        except OSError:
            return  # it has gone, and the reading thread knows

    def _read(self) -> None:
        pipe = cast("Any", self._process.stdout)
        nonsense = None
        try:
            while (message := read_frame(pipe.read)) is not None:
                self._take(message)
        except MessageError as error:
            nonsense = str(error)
            self.kill()
        status = self._reap(_END_LIMIT_S)
        self.death = Death(status, self._last_lines(), nonsense)
        for call in list(self._calls.values()):
            call.end(ChildDied(self.death))

    def _take(self, message: dict[str, Any]) -> None:
        """Give an answer to who asked. One that makes no sense stays open: it ends with the process."""
        number = decode(int, message.get("id"))
        call = self._calls.get(number)
        if call is None:
            raise MessageError("an answer to nothing")
        if "error" in message:
            call.error = decode_error(message["error"])
        else:
            call.value = call.take(message.get("value"))
        del self._calls[number]
        call.end()

    def _last_lines(self) -> tuple[str, ...]:
        size = self._log.seek(0, 2)
        self._log.seek(max(0, size - _LAST_BYTES))
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
