"""Ctrl-C at a moment that a test chooses, however busy the machine is."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qwenctl.services.engine_process import EngineProcess


@contextmanager
def ctrl_c_during_a_call(engine: EngineProcess) -> Iterator[None]:
    """Send SIGINT as soon as an answer of the engine's process is waited for."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not engine._child._calls:
            assert time.monotonic() < deadline, "nothing was asked"
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=watch)
    watching.start()
    yield
    watching.join()
