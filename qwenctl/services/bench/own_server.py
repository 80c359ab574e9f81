"""A `qwenctl serve` of our own for a measurement: started as a user would start it, ended when it is over."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qwenctl.errors import ModelLoadFailed
from qwenctl.services.bench.http_load import Target

_END_LIMIT_S = 20.0
# Nothing that lies in the current folder is to be imported (-P), but the package that this file belongs to is.
_START = f"import sys; sys.path.append({str(Path(__file__).parents[3])!r}); from qwenctl.cli.main import main; main()"


@contextmanager
def own_server(words: Sequence[str]) -> Iterator[Target]:
    """Start `qwenctl serve` with these arguments on a free port of loopback; yields where it is when it is ready.

    It has a key of its own: the one that the user may have configured is not ours to know.

    Raises:
        ModelLoadFailed: it ended before it was ready, with the last line it printed.
    """
    key = secrets.token_hex()
    command = [
        *(sys.executable, "-P", "-c", _START, "serve", *words),
        *("--host", "127.0.0.1", "--port", "0", "--api-key", key, "--json"),
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            yield Target(_address(process, log), api_key=key)
        finally:
            _end(process)


def _address(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    line = process.stdout.readline() if process.stdout else b""
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError):
        process.wait()
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").split("\n")
        said = next((text for text in reversed(lines) if text.startswith("error")), "it gives no reason")
        raise ModelLoadFailed(f"the server did not start: {said.removeprefix('error: ')}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
