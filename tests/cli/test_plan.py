"""`qwenctl plan` as a command: what it prints where, its exit codes, and that a file here needs no network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from scripts.plan_check.memory_cases import CONFIGS
from tests.tiny_gguf import TinyGguf

LARGE = str(CONFIGS / "Qwen3-235B-A22B-Instruct-2507.json")
SMALL = str(CONFIGS / "Qwen3-30B-A3B-Instruct-2507.json")


def test_people_get_verdict_bars_speeds_and_commands_on_standard_output(qwenctl: Any) -> None:
    ran = qwenctl("plan", LARGE, "--machine", "4090-128")
    assert (ran.code, ran.stderr) == (0, "")
    assert "q4_k_m 142.2 GB" in ran.stdout
    assert "fits: all weights in memory" in ran.stdout
    assert "#" * 20 in ran.stdout
    assert " of 24.0 GiB" in ran.stdout
    assert "tokens/s (" in ran.stdout  # with the band
    assert ran.stdout.splitlines()[-1] == "qwenctl chat qwen3-235b-a22b-instruct-2507-q4_k_m --ctx 32k"
    assert "\x1b" not in ran.stdout


def test_assumptions_and_what_yarn_cannot_do_go_to_standard_error(qwenctl: Any) -> None:
    ran = qwenctl("plan", LARGE, "--machine", "8x80GiB,1TiB ram", "--ctx", "1024k")
    assert ran.code == 0
    assert "assumed: 8 cores" in ran.stderr
    assert "YaRN" in ran.stderr
    assert "dual chunk attention" in ran.stderr
    assert "YaRN" not in ran.stdout
    assert "assumed" not in qwenctl("plan", LARGE, "--machine", "8x80GiB,1TiB ram", "-q").stderr


def test_one_json_document(qwenctl: Any) -> None:
    ran = qwenctl(
        "plan", LARGE, "--machine", "2xa100", "--ctx", "64k", "--kv-type", "q8_0", "--parallel", "2", "--json"
    )
    found = json.loads(ran.stdout)
    assert (ran.code, found["fits"], found["weights_in"]) == (0, True, "devices")
    assert [memory["name"] for memory in found["memories"]] == ["GPU0", "GPU1", "RAM"]
    assert all(memory["planned_bytes"] <= memory["total_bytes"] for memory in found["memories"])
    assert found["speed"]["band"] == 0.4
    assert "--parallel 2 --ctx 64k --kv-type q8_0" in found["commands"][-1]
    assert found["vllm"]["serve"].startswith("vllm serve")


def test_what_does_not_fit_exits_3(qwenctl: Any) -> None:
    ran = qwenctl("plan", LARGE, "--machine", "16GiB ram", "--ctx", "1024k")
    assert (ran.code, ran.stdout) == (3, "")
    assert "error: the model needs at least" in ran.stderr
    assert "hint: " in ran.stderr


def test_a_comparison_has_a_line_for_each_machine_and_type(qwenctl: Any) -> None:
    ran = qwenctl("plan", SMALL, "--compare", "--machine", "laptop-16", "--machine", "4090-128", "--quant", "q4_k_m")
    lines = ran.stdout.splitlines()
    assert ran.code == 0
    assert [line.split()[0] for line in lines] == ["MACHINE", "laptop-16", "4090-128"]
    assert "disk" in lines[1]
    assert "devices" in lines[2]


def test_a_comparison_in_which_nothing_fits_exits_3(qwenctl: Any) -> None:
    ran = qwenctl("plan", SMALL, "--compare", "--machine", "2GiB ram", "--json")
    assert ran.code == 3
    assert {one["fits"] for one in json.loads(ran.stdout)} == {False}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--machine", "a toaster"), "neither a size, a rate nor a known card"),
        (("--machine", "4090-128", "--machine", "a100"), "need --compare"),
        (("--quant", "q4_k_m", "--quant", "q8_0"), "need --compare"),
        (("--ctx", "much"), "not a number of tokens"),
        (("--kv-type", "q1"), "is not one of"),
    ],
)
def test_nonsense_exits_2(qwenctl: Any, words: tuple[str, ...], said: str) -> None:
    ran = qwenctl("plan", SMALL, *words)
    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr


def test_an_unknown_type_is_named(qwenctl: Any) -> None:
    ran = qwenctl("plan", SMALL, "--machine", "a100", "--quant", "q9")
    assert ran.code == 1
    assert "unknown output type 'q9'" in ran.stderr


def test_a_file_here_is_planned_for_this_machine_without_a_network(
    qwenctl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = TinyGguf.of("qwen3moe").write(tmp_path / "tiny.gguf")
    ran = qwenctl("plan", path, "--json")
    assert ran.code == 0
    assert json.loads(ran.stdout)["commands"] == [f"qwenctl chat {path} --ctx 32k"]
