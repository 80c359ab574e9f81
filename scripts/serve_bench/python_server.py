"""llama_cpp.server, the server in llama-cpp-python, in a virtual environment of its own; made once a machine.

    CACHE/llama-cpp-server-<key>/bin/python          CACHE: ~/.cache/qwenctl/wheels, see native_build

The wheel is the one that qwenctl uses; what its extra `server` asks for comes from pip's index, in today's versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from native_build.install import WheelCache, read_stamp, share_copies


class NoPythonServerError(Exception):
    """Why the environment could not be made."""


def python_server() -> Path:
    """Return the interpreter of that environment; the first time, make it.

    Raises:
        NoPythonServerError: the wheel is not in the cache, or pip failed.
    """
    cache = WheelCache.of_user(os.environ).folder
    key = read_stamp().get("key", "")
    wheel = next(iter(sorted((cache / key).glob("*.whl"))), None) if key else None
    if wheel is None:
        raise NoPythonServerError("the wheel of llama-cpp-python is not in the cache: run `make setup`")
    folder = cache / f"llama-cpp-server-{key}-py{sys.version_info[0]}{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    print("making an environment with llama_cpp.server, once", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", f"{wheel}[server]"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise NoPythonServerError((run.stderr.strip().splitlines() or ["pip failed"])[-1])
    share_copies(next(iter(folder.glob("lib/python*/site-packages/llama_cpp/lib"))))
    (folder / "complete").touch()
    return python


if __name__ == "__main__":
    try:
        print(python_server())
    except NoPythonServerError as error:
        sys.exit(f"error: {error}")
