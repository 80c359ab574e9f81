"""What a run tells of its device: a wait that is one, and everything that only looks like one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qwenctl.moe.costs import CostCurve, Costs
from qwenctl.moe.device_costs import device_seconds

US = 1e-6


def run_of(cpu_us: float, wait_us: float) -> Any:
    """A run that was queued in 30 us, whose device was waited for after the CPU had computed."""
    return SimpleNamespace(
        started_s=1.0, waited_from_s=1.0 + (30 + cpu_us) * US, ended_s=1.0 + (30 + cpu_us + wait_us) * US
    )


@pytest.mark.parametrize(
    ("cpu_us", "wait_us", "expected_us"),
    [
        (0, 40, 70),  # nothing but the device
        (200, 100, 330),  # it ended last
        (0, 2, 32),  # it was quicker than predicted
        (400, 2, 60),  # it ended some time before: the prediction stands
        (400, 20, 60),  # a breath of the machine's
        (8000, 300, 60),  # the CPU waited for the disk: a longer breath
    ],
)
def test_only_a_wait_tells(cpu_us: float, wait_us: float, expected_us: float) -> None:
    assert device_seconds(run_of(cpu_us, wait_us), 60 * US) == pytest.approx(expected_us * US)


def test_an_upload_from_elsewhere() -> None:
    costs = Costs(CostCurve((1,), (1e-4,)), CostCurve((1,), (1e-6,)), 1e-5, 1e-3, 60e-6, 75e-6)
    slower = costs.with_upload(300e-6)
    assert slower.upload_s_per_expert == pytest.approx(300e-6)
    assert slower.loaded_upload_s_per_expert == pytest.approx(375e-6)
    assert costs.with_upload(60e-6) is costs
