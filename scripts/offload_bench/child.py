"""Start a child for a task under a memory limit, and collect what it says. `serve` is the child's side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenctl.settings import native_defaults

from .memory_limit import memory_limit
from .task import Report, Task, report_from_lines, task_from_json

_SCRIPT = Path(__file__).resolve().parents[1] / "bench_offload.py"


def run_child(task: Task, limit_bytes: int, timeout_s: float) -> Report:
    """Return what the child reported until it ended, was killed for memory, or the time was up."""
    with tempfile.TemporaryDirectory(prefix="bench-offload-") as folder, memory_limit(limit_bytes) as members:
        task_file, errors = Path(folder, "task.json"), Path(folder, "errors.txt")
        task_file.write_text(task.as_json())
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(members)]
        command += [sys.executable, str(_SCRIPT), "--child", str(task_file)]
        own = {} if task.engine == "stock" else native_defaults(os.environ)  # as the program has it
        with errors.open("w") as error_file:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=error_file, text=True, env={**os.environ, **own}
            )
            try:
                output, _ = process.communicate(timeout=timeout_s)
                error = _error(process.returncode, errors)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                error = f"not done after {timeout_s:.0f} s"
            except BaseException:
                process.kill()
                process.wait()
                raise
    return report_from_lines(output.splitlines(), error)


def _error(returncode: int, errors: Path) -> str | None:
    if returncode == 0:
        return None
    if returncode == -9:
        return "killed: it needed more than the memory limit"
    said = errors.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else f"exit code {returncode}"


def serve(task_file: Path) -> None:
    """Measure what the task says, in this process; a JSON line for each result."""
    task = task_from_json(task_file.read_text())

    def tell(fields: Mapping[str, Any]) -> None:
        print(json.dumps(fields, default=str), flush=True)

    if task.engine == "stock":
        from .stock_child import measure
    else:
        from .engine_child import measure
    measure(task, tell)
