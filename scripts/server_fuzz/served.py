"""A `qwenctl serve` of its own for a script: started, watched, ended."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class Served:
    """The process. Its standard error goes to a file, so that it never waits for a reader."""

    def __init__(self, model: str | None, *options: str) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="qwenctl-serve-", suffix=".log")  # noqa: SIM115  (as long as we)
        self.log = Path(self._log.name)
        words = [
            sys.executable,
            "-m",
            "qwenctl",
            "serve",
            *([model] if model else []),
            "--port",
            "0",
            "--json",
            *options,
        ]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        if not ready:
            raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
        url = urlsplit(json.loads(ready)["url"])
        self.host, self.port = str(url.hostname), int(url.port or 0)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def post(self, path: str, body: Any, timeout_s: float = 120.0) -> tuple[int, bytes]:
        """Return status and body of the answer to a well-made request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def answers(self) -> float | None:
        """Return the seconds that a good request takes; None: it is not answered as it should be."""
        began = time.monotonic()
        asked = {"messages": [{"role": "user", "content": "What is a river?"}], "max_tokens": 4}
        try:
            status, body = self.post("/v1/chat/completions", asked)
            usage = json.loads(body)["usage"] if status == 200 else {}
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return None
        return time.monotonic() - began if usage.get("completion_tokens") else None

    def resources(self) -> dict[str, int]:
        """Return resident bytes, threads and open descriptors."""
        folder = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        return {
            "rss_bytes": int(status["VmRSS"].split()[0]) * 1024,
            "n_threads": int(status["Threads"]),
            "n_descriptors": sum(1 for _ in (folder / "fd").iterdir()),
        }

    def end(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
