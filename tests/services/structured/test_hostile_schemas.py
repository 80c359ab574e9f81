"""No schema crashes, exhausts or stalls the process: each is tried in a child with limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.structured import hostile_schemas

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(hostile_schemas.HOSTILE)


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_schema_gets_a_grammar_or_a_sentence(name: str) -> None:
    command = [sys.executable, "-m", "tests.services.structured.hostile_schemas", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("characters") or 10 < len(run.stdout) < 200
