"""LiteLLM and simonw's llm, unmodified, against `qwenctl serve`: in the environment that `make test-interop` makes.

The official openai and anthropic clients are in tests/clients, which `make test` runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.interop_environment import find_python
from tests.clients.conftest import Server
from tests.clients.conftest import server as server  # noqa: PLC0414 - the same server, here too

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300


@pytest.fixture
def clients_python(user_cache: Path) -> Path:
    """Return the interpreter of the environment with the clients."""
    python = find_python("clients", user_cache)
    if python is None:
        pytest.skip("make test-interop makes the environment with other people's clients")
    return python


def test_litellm(clients_python: Path, server: Server) -> None:
    command = [clients_python, ROOT / "scripts/interop/use_litellm.py", f"{server.url}/v1", server.model, server.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "Paris" in found["answer"]
    assert found["streamed"] == found["answer"] == found["after"]
    assert found["streamed_usage"] == found["usage"] > 0
    assert found["reasoning"]
    assert found["tool"][0] == "weather"
    assert set(found["tool"][1]) == set(found["schema"]) == {"city"}
    assert found["error"] in ("ContextWindowExceededError", "BadRequestError")


def test_llm(clients_python: Path, server: Server, tmp_path: Path) -> None:
    """As a user does it: a model in extra-openai-models.yaml, then `llm -m`; stream, schema, tool, error."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: {json.dumps(server.model)}\n  api_base: {server.url}/v1\n"
        "  supports_schema: true\n  supports_tools: true\n  api_key_name: ours\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"ours": server.key}))
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}

    def llm(*words: str) -> subprocess.CompletedProcess[str]:
        command = [clients_python, "-m", "llm", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)

    question = "What is the capital of France?"
    for options in ((), ("--no-stream",)):
        asked = llm("-m", "ours", question, *options, "-o", "temperature", "0")
        assert "Paris" in asked.stdout, asked.stderr
    formed = llm("-m", "ours", question, "--schema", "city str", "-o", "temperature", "0")
    assert set(json.loads(formed.stdout)) == {"city"}, formed.stderr
    tools = llm("-m", "ours", question, "--functions", "def now() -> str:\n    'The time.'\n    return 'noon'")
    assert tools.returncode == 0, tools.stderr
    wrong = llm("-m", "ours", question, "-o", "temperature", "0", "--key", "wrong")
    assert wrong.returncode != 0
    assert "key" in wrong.stderr.lower()


def test_the_chat_page(clients_python: Path, server: Server, tmp_path: Path) -> None:
    """In a headless Chromium; the pictures stay in pytest's folder for whoever wants to look at them."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    command = [clients_python, ROOT / "scripts/interop/use_page.py", server.url, server.key, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["errors"] == seen["foreign"] == []
    assert "Paris" in seen["answer"]
    assert "tokens" in seen["meter"]
    assert seen["thoughts"]["folded"]
    assert seen["thoughts"]["answer"].strip()
    assert seen["thoughts"]["text"].strip()
    assert seen["thoughts"]["summary"].startswith("thought for")
    assert seen["hostile"] == {"caught": None, "elements": 0, "code": "print('<b>')", "cells": 2}
    assert not seen["too_wide"]
    assert seen["kept"] >= 2
    assert seen["left_over"] == 0
    assert {path.name for path in tmp_path.glob("*.png")} >= {"first.png", "answer.png", "thinking.png", "dark.png"}
