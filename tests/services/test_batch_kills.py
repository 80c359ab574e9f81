"""A batch that is killed at any moment: nothing is lost or done twice. scripts/kill_batch.py is the long form."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.services.batch_kills import BatchKiller, KillPlan
from tests.services.fake_openai_server import FakeServer

KILLS = [4, pytest.param(100, marks=pytest.mark.slow)]


@pytest.mark.parametrize("order", ["finished", "input"])
@pytest.mark.parametrize("n_kills", KILLS)
def test_killed_with_a_model_opened_here(tmp_path: Path, order: str, n_kills: int) -> None:
    report = BatchKiller(tmp_path, KillPlan(n_kills, order, "scripted")).run()
    assert report.is_good, report
    assert report.n_kills >= n_kills - 1
    assert report.n_begun >= report.n_lines


@pytest.mark.parametrize("order", ["finished", "input"])
@pytest.mark.parametrize("n_kills", KILLS)
def test_killed_while_a_server_answers(tmp_path: Path, order: str, n_kills: int) -> None:
    """What the server has begun is counted there."""

    def slowly(number: int, _body: Mapping[str, Any]) -> None:
        time.sleep(0.001 * (1 + number % 7))

    with FakeServer(slowly) as fake:

        def begun() -> list[int]:
            return [int(prompt.split()[0]) for prompt in fake.prompts]

        report = BatchKiller(tmp_path, KillPlan(n_kills, order, "none", fake.url), begun).run()
    assert report.is_good, report
    assert report.n_kills >= n_kills - 1
