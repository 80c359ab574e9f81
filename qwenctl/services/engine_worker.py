"""The child process that holds an engine, so that ggml may abort there: it does when a remote device goes away.

    thread    does
    reader    takes messages from standard input; carries out `cancel` and `end_thinking` at once; ends the process at
              the end of input
    quick     submit, tokenize, detokenize, close: what need not wait for the step that is being computed
    main      step, and what must lie between two steps

Answers go to what was standard output; whatever native code prints goes to standard error, with llama.cpp's errors, for
the parent to read after a crash. Started by engine_child.py; knows nothing of it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from quant.libggml import load_libggml
from qwenctl.core import GenerationRequest
from qwenctl.errors import InvalidRequest
from qwenctl.moe.devices import DeviceCalls, add_rpc_server
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_errors import encode_error
from qwenctl.services.engine_messages import MessageError, MessageTooLarge, Opened, decode, frame_of, read_frame
from qwenctl.services.engine_rows import encode_rows
from qwenctl.services.native_log import ERROR, LogLine, native_log
from qwenctl.services.tcp_keepalive import keep_all_alive

if sys.platform != "win32":
    import resource

_LOOK_FOR_CONNECTIONS_S = 0.5
_PARENT_GONE, _BUG = 0, 70  # exit codes; 70: a message that makes no sense (EX_SOFTWARE)

Job = Callable[[], None]


def main() -> NoReturn:
    """Serve one engine until the parent closes the pipe."""
    answers = os.dup(1)
    os.dup2(2, 1)
    if sys.platform != "win32":  # an abort is expected here, and its core would be as large as the model
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.environ["GGML_NO_BACKTRACE"] = "1"  # and no debugger on it
    native_log().forward = _print_error
    worker = EngineWorker(partial(_write, answers))
    threading.Thread(target=worker.read, args=(partial(os.read, 0),), daemon=True).start()
    worker.serve()


def _print_error(line: LogLine) -> None:
    if line.level == ERROR:
        os.write(2, f"{line.text}\n".encode())


def _write(descriptor: int, frame: bytes) -> None:
    data = memoryview(frame)
    while data:
        data = data[os.write(descriptor, data) :]


class EngineWorker:
    """The engine and the calls that wait for it.

    Args:
        write: sends all bytes of an answer.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._write_lock = threading.Lock()
        self._engine: Engine | None = None
        self._quick: SimpleQueue[Job] = SimpleQueue()
        self._between_steps: SimpleQueue[Job] = SimpleQueue()

    def serve(self) -> NoReturn:
        """Carry out calls for ever."""
        threading.Thread(target=_run_all, args=(self._quick,), daemon=True).start()
        _run_all(self._between_steps)

    def read(self, read: Callable[[int], bytes]) -> NoReturn:
        """Take messages until the stream ends, and end the process."""
        try:
            while (message := read_frame(read)) is not None:
                self._take(message)
        except MessageError as error:
            os.write(2, f"{error}\n".encode("utf-8", "replace"))
            os._exit(_BUG)
        os._exit(_PARENT_GONE)

    def _take(self, message: dict[str, Any]) -> None:
        name = message.pop("call", None)
        if name in _AT_ONCE:
            _AT_ONCE[name](self.engine, decode(str, message.get("request_id")))
            return
        number = decode(int, message.pop("id", None))
        if name == "close":
            self._quick.put(partial(self._close, number))
        elif name in _QUICK:
            self._quick.put(partial(self._answer, number, _QUICK[name], message))
        elif name in _BETWEEN_STEPS:
            self._between_steps.put(partial(self._answer, number, _BETWEEN_STEPS[name], message))
        else:
            raise MessageError(f"no call {name!r}")

    def _close(self, number: int) -> None:
        """End the step that is being computed, then everything; the answer is the last events, after that step's."""
        try:
            self.engine.close()
        except Exception as error:
            self._between_steps.put(partial(self._answer, number, partial(_raise, error), {}))
        else:
            self._between_steps.put(partial(self._answer, number, EngineWorker.step, {}))

    def _answer(self, number: int, call: Callable[..., object], fields: dict[str, Any]) -> None:
        """Carry out `call` and answer with what it returns or raises."""
        try:
            frame = frame_of({"id": number, "value": call(self, **fields)})
        except MessageTooLarge as error:
            frame = frame_of({"id": number, "error": encode_error(InvalidRequest(f"the answer is too long: {error}"))})
        except MessageError:  # nobody can know what was meant
            raise
        except BaseException as error:  # for the caller
            frame = frame_of({"id": number, "error": encode_error(error)})
        with self._write_lock:
            self._write(frame)

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            MessageError: none was opened.
        """
        if self._engine is None:
            raise MessageError("a call before a model was opened")
        return self._engine

    def open(self, path: Any, options: Any) -> object:
        """Register the remote devices and open the model; returns `Opened`."""
        wanted = decode(EngineOptions, options)
        if wanted.rpc:
            calls = DeviceCalls(Ggml(load_libggml().path.parent))
            threading.Thread(target=_keep_connections_alive, daemon=True).start()
            for endpoint in wanted.rpc:
                add_rpc_server(calls, endpoint)
        self._engine = Engine.open(Path(decode(str, path)), wanted)
        return Opened(self._engine.info, self._engine.placement, self._engine.warnings)

    def submit(self, request: Any) -> None:
        """Queue a request."""
        self.engine.submit(decode(GenerationRequest, request))

    def tokenize(self, text: Any, parse_special: Any, add_special: Any) -> object:
        """Return tokens."""
        special = {"parse_special": decode(bool, parse_special), "add_special": decode(bool, add_special)}
        return self.engine.tokenize(decode(str, text), **special)

    def detokenize(self, tokens: Any) -> object:
        """Return text."""
        return self.engine.detokenize(decode(tuple[int, ...], tokens))

    def embed(self, token_lists: Any) -> object:
        """Return vectors."""
        return encode_rows(self.engine.embed(decode(tuple[tuple[int, ...], ...], token_lists)))

    def step(self) -> object:
        """Return events."""
        return self.engine.step()

    def check_integrity(self) -> None:
        """Raise unless the engine's books agree."""
        self.engine.check_integrity()

    def offload_stats(self) -> object:
        """Return placement and counters, or None."""
        return self.engine.offload_stats()


_AT_ONCE: dict[Any, Callable[[Engine, str], None]] = {"cancel": Engine.cancel, "end_thinking": Engine.end_thinking}
_QUICK: dict[Any, Callable[..., object]] = {
    "submit": EngineWorker.submit,
    "tokenize": EngineWorker.tokenize,
    "detokenize": EngineWorker.detokenize,
}
_BETWEEN_STEPS: dict[Any, Callable[..., object]] = {
    "open": EngineWorker.open,
    "embed": EngineWorker.embed,
    "step": EngineWorker.step,
    "check_integrity": EngineWorker.check_integrity,
    "offload_stats": EngineWorker.offload_stats,
}


def _keep_connections_alive() -> NoReturn:
    """ggml opens its connections as it likes, while a model is loaded more than once."""
    while True:
        keep_all_alive()
        time.sleep(_LOOK_FOR_CONNECTIONS_S)


def _raise(error: Exception, _: EngineWorker) -> NoReturn:
    raise error


def _run_all(jobs: SimpleQueue[Job]) -> NoReturn:
    """Run jobs for ever. One that raises ends the process: it could not answer."""
    try:
        while True:
            jobs.get()()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        os._exit(_BUG)


if __name__ == "__main__":
    main()
