"""Run quantize_worker.py in a process of its own and read its answers. Knows pipes and exit codes, nothing of files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from qwenctl.errors import QwenctlError

_LAST_BYTES = 4096


def run_worker(request: Mapping[str, object], on_answer: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    """Send `request` and return the last answer; hand each earlier one to `on_answer`.

    Args:
        request: the fields of quantize_worker.Request.
        on_answer: called on this thread.

    Raises:
        QwenctlError: llama.cpp refused the work, or the process died; the message says why in one line.
        KeyboardInterrupt: after the process was ended.
    """
    last: Mapping[str, Any] = {}
    with tempfile.TemporaryFile() as log, _child(log) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the child has no pipes")
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        for line in child.stdout:
            last = json.loads(line)
            if "finished" not in last:
                on_answer(last)
        status = child.wait()
        if "finished" not in last:
            raise QwenctlError(f"llama.cpp crashed while it quantized ({_death(status)}){_last_line(log)}")
    if not last["finished"]:
        raise QwenctlError(f"llama.cpp cannot quantize this file: {'; '.join(last['errors'])}")
    return last


@contextmanager
def _child(log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "qwenctl.services.quantize_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in the terminal is meant for us
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def _death(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _last_line(log: IO[bytes]) -> str:
    """Return the last line that native code printed, to be appended to a sentence."""
    size = log.seek(0, 2)
    log.seek(max(0, size - _LAST_BYTES))
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()}" if lines else ""
