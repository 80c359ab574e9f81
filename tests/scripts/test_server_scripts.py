"""Short forms of the scripts that attack a server and wear it out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT


def run(script: str, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *words, "--json"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.slow
def test_fuzz(demo_gguf: Path) -> None:
    report = run("fuzz_server.py", str(demo_gguf), "--requests", "60")
    assert (report["n_requests"], report["n_dead"]) == (60, 0)
    assert report["n_good"] == report["n_good_answered"] > 10


@pytest.mark.slow
def test_soak(demo_gguf: Path) -> None:
    report = run("soak_server.py", str(demo_gguf), "--requests", "60", "--clients", "4")
    assert report["n_lost"] == 0
    assert report["outcomes"]["cancelled"] > 0
