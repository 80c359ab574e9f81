"""The first load of a model file, in a child process: llama.cpp aborts the process on some files, or is killed by them.

    pre-flight (quant.gguf_check, milliseconds)  →  child: load, make a context, compute a token of a small model
                                                 →  remembered (load_record.py)

A file that passed is not tried again until it or llama.cpp changes. Knows nothing of how models are used afterwards.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from quant.gguf_check import check_model
from quant.gguf_read import read_gguf
from qwenctl.errors import ModelLoadFailed
from qwenctl.services import load_trial_worker
from qwenctl.services.load_record import identity_of, is_remembered, remember
from qwenctl.settings import Settings

TIME_LIMIT_S = 120.0
_COMPUTED_UP_TO_BYTES = 512 << 20
_HINT = "the file may be damaged or made for another version: run `qwenctl verify` on it, or convert it again"

# "/build/src/llama-vocab.cpp:2544: GGML_ASSERT(id_to_token.size() == token_to_id.size()) failed"
_ASSERTION = re.compile(r"^(?:.*/)?([\w.+-]+:\d+: .*)$")
_FUNCTIONS = re.compile(r"^(?:(?:[a-z_0-9~:]+(?:\(\))?|error loading model): +)+")


def try_load(path: Path, settings: Settings, *, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Make sure that llama.cpp can load `path` without harm to this process. Free for a file that passed before.

    Raises:
        GgufError: the file is no GGUF, or llama.cpp would abort on it; found by the pre-flight.
        ModelLoadFailed: llama.cpp refused it, crashed or took too long; the message gives its reason in one line.
    """
    identity = identity_of(path)
    if is_remembered(path, identity, settings.cache_dir):
        return
    gguf = read_gguf(path)
    check_model(gguf)
    _run_child(path, compute=gguf.size_bytes <= _COMPUTED_UP_TO_BYTES, time_limit_s=time_limit_s)
    remember(path, identity, settings.cache_dir)


def _run_child(path: Path, *, compute: bool, time_limit_s: float) -> None:
    # By its file name, and without the current folder on the module path (-P): nothing lying there is to be imported.
    command = [sys.executable, "-P", load_trial_worker.__file__, str(path), *(["--compute"] if compute else [])]
    with tempfile.TemporaryFile() as log:
        try:
            child = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=time_limit_s,
                check=False,
                start_new_session=True,  # Ctrl-C in the terminal is meant for us; run() kills the child then
            )
        except subprocess.TimeoutExpired:
            raise ModelLoadFailed(f"{path}: llama.cpp had not loaded it after {time_limit_s:g} s", _HINT) from None
        if child.returncode == 0 and child.stdout == b"ready\n":
            return
        log.seek(0)
        text = log.read(1 << 20).decode("utf-8", "replace")
    raise ModelLoadFailed(f"{path}: {_reason(text, child.returncode)}", _HINT)


def _reason(log: str, status: int) -> str:
    """Return why the child failed, in one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if status < 0:
        crash = f"llama.cpp crashes on it ({_signal_name(-status)})"
        assertions = [
            match[1] for line in lines if "GGML_" in line or "terminate" in line if (match := _ASSERTION.match(line))
        ]
        said = assertions[-1:] or lines[-1:]
        return f"{crash}: {said[0][:300]}" if said else crash
    return f"llama.cpp refuses it: {_FUNCTIONS.sub('', lines[0])[:300]}" if lines else f"the load trial exited {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
