"""A real `qwenctl serve` with the demo for the clients that people use, as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY = "key-of-a-test"
_STARTED = re.compile(r"http://127\.0\.0\.1:(\d+)")
_START_LIMIT_S = 120


@dataclass(frozen=True)
class Server:
    """Where a server listens, and what it wants to be shown."""

    url: str  # without /v1
    model: str
    key: str


@pytest.fixture(scope="session")
def server(demo_gguf: Path) -> Iterator[Server]:
    """Return a server with four sequences."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "qwenctl", "serve", str(demo_gguf), "--port", "0", "--parallel", "4"]
        command += ["--ctx", "2k"]
        environment = os.environ | {"QWENCTL_API_KEY": KEY, "HOME": home, "XDG_CACHE_HOME": f"{home}/cache"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stderr is not None
                url, said = None, []
                for line in process.stderr:
                    said.append(line)
                    if found := _STARTED.search(line):
                        url = found.group(0)
                        break
                assert url, "".join(said)
                _await_the_model(url)
                yield Server(url, _model_name(url), KEY)
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=_START_LIMIT_S)
        assert process.returncode == 0


def _await_the_model(url: str) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=_START_LIMIT_S):
                return
        except urllib.error.HTTPError:
            time.sleep(0.1)
    raise TimeoutError("the model was not loaded in time")


def _model_name(url: str) -> str:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=_START_LIMIT_S) as client:
        return client.models.list().data[0].id
