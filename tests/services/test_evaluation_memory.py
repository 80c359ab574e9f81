"""What memory an evaluation is told of: the machine's or what is allowed, and that of GPUs where there are some."""

from __future__ import annotations

from typing import NoReturn

import pytest

from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.services import evaluation_memory as module
from qwenctl.services.evaluation_memory import evaluation_memory
from qwenctl.services.evaluation_plan import Memory
from qwenctl.units import GIB


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_memory", lambda: MachineMemory(60 * GIB, 4 * GIB, 64 * GIB))


def gpus(monkeypatch: pytest.MonkeyPatch, *free_gib: int) -> None:
    monkeypatch.setattr(module, "find_devices", lambda _calls: tuple(free_gib))
    monkeypatch.setattr(module, "device_memory", lambda _calls, free: DeviceMemory("GPU", free * GIB, 24 * GIB))


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    assert evaluation_memory(None, None) == Memory(64 * GIB)
    assert evaluation_memory(16 * GIB, 8 * GIB) == Memory(16 * GIB)


def test_with_two(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 20, 22)
    assert evaluation_memory(None, None) == Memory(64 * GIB, 42 * GIB)
    assert evaluation_memory(None, 30 * GIB) == Memory(64 * GIB, 30 * GIB)
    assert evaluation_memory(None, 99 * GIB) == Memory(64 * GIB, 42 * GIB)


def test_a_build_that_is_not_known_has_no_devices_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        raise UnknownBuild("another build")

    monkeypatch.setattr(module, "open_ggml", refuse)
    assert evaluation_memory(None, None) == Memory(64 * GIB)
