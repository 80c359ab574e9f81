"""Descriptions of machines, those that make no sense included."""

from __future__ import annotations

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.planning.hardware import CARDS, card_of_memory, described_card, find_card
from qwenctl.planning.machine_text import MACHINES, parse_machine
from qwenctl.units import GIB


def test_the_example_of_the_help() -> None:
    machine = parse_machine("4x24GiB,128GiB ram,7GB/s disk")
    assert [device.total_bytes for device in machine.memory.devices] == [24 * GIB] * 4
    assert machine.memory.limit_bytes == 128 * GIB
    assert machine.cpu.batch.disk_bytes_s == 7e9
    assert 120 * GIB < machine.memory.budget_bytes < 128 * GIB
    assert len(machine.gpus) == 4
    assert all("disk" not in assumption for assumption in machine.assumptions)


@pytest.mark.parametrize("name", MACHINES)
def test_named_machines(name: str) -> None:
    machine = parse_machine(name.upper())
    assert not machine.assumptions
    assert len(machine.gpus) == len(machine.memory.devices)


def test_every_item() -> None:
    machine = parse_machine("2 x RTX 4090, 64 GiB ddr4 ,  20GB/s PCIe, 100GB/s ram, 12 cores, nvme5 disk")
    assert len(machine.gpus) == 2
    assert machine.gpus[0].upload_bytes_s == 20e9
    assert machine.cpu.n_threads == 12
    assert machine.cpu.batch.disk_bytes_s == 12e9
    assert machine.cpu.read_bytes_s == pytest.approx(60e9)


def test_what_is_not_said_is_named() -> None:
    said = " ".join(parse_machine("16GiB ram").assumptions)
    assert all(word in said for word in ("cores", "main memory", "disk"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is neither a size"),
        ("24GiB", "nothing of main memory"),
        ("4x24GiB,7GB/s disk", "nothing of main memory"),
        ("64GiB ram,32GiB ram", "twice"),
        ("RTX 9999,64GiB ram", "neither a size, a rate nor a known card"),
        ("0x24GiB,64GiB ram", "1 to 64"),
        ("65x24GiB,64GiB ram", "1 to 64"),
        ("64GiB ram,0 cores", "a core at least"),
        ("0GiB ram", "is nothing"),
        ("64GiB ram,fast/s disk", "not a size"),
        ("64GiB ram,0GB/s disk", "is nothing"),
        ("64 XiB ram", "neither"),
    ],
)
def test_nonsense_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        parse_machine(text)
    assert raised.value.message.startswith("--machine")


def test_cards_by_the_names_that_people_and_drivers_use() -> None:
    for name in ("RTX 4090", "4090", "rtx4090", "NVIDIA GeForce RTX 4090"):
        assert find_card(name) is CARDS["rtx4090"]
    assert find_card("A100-80GB") is CARDS["a100"]
    assert find_card("toaster") is None
    assert described_card("NVIDIA H100 80GB HBM3") is CARDS["h100"]
    assert described_card("NVIDIA GeForce RTX 5070 Ti") is CARDS["rtx5070ti"]
    assert described_card("llvmpipe") is None


def test_a_card_of_unknown_make_promises_no_more_than_the_smallest_of_its_size() -> None:
    assert card_of_memory(24 * GIB) is CARDS["rtx3090"]
    assert card_of_memory(80 * GIB) is CARDS["a100"]
    assert card_of_memory(1000 * GIB) is CARDS["h200"]
