"""The prefix cache across processes: several at once, one that is killed, an engine in a process of its own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from qwenctl.core import Finished, GenerationRequest, SamplingParams, Usage
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_process import EngineProcess
from qwenctl.services.prefix_cache import worth
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.prefix_cache.prefix_store import stored_files
from tests.services.prefix_cache.asking_child import DOCUMENT
from tests.tiny_gguf import TinyGguf

CHILD = [sys.executable, "-m", "tests.services.prefix_cache.asking_child"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return TinyGguf.of("qwen3moe").write(tmp_path / "model.gguf")


def start(model: Path, folder: Path, last: int, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*CHILD, str(model), str(folder), str(last), *more], stdout=PIPE, text=True)


def test_two_processes_at_once_and_a_third_that_profits(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    both = [start(model, folder, last) for last in (70, 70)]  # the very same prompt: the same file
    assert {child.communicate()[0].strip() for child in both} <= {"0", str(len(DOCUMENT) + 20)}
    assert [child.returncode for child in both] == [0, 0]
    assert len(stored_files(folder)) == 1
    assert not list(folder.glob("*/*.new"))
    third = start(model, folder, 99)
    assert third.communicate()[0].strip() == str(len(DOCUMENT) + 20)


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_that_is_used(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    child = start(model, folder, 70, "hang")
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    child.kill()
    child.communicate()
    assert not stored_files(folder)
    assert len(list(folder.glob("*/*.new"))) == 1
    next_one = start(model, folder, 70)
    assert next_one.communicate()[0].strip() == "0"
    assert len(stored_files(folder)) == 1
    assert not list(folder.glob("*/*.new"))


def test_a_disk_that_takes_no_more_costs_the_entry_and_not_the_answer(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    child = start(model, folder, 70, "full")
    assert child.communicate()[0].strip() == "0"
    assert child.returncode == 0
    assert not [path for path in folder.rglob("*") if path.is_file()]


def answer(engine: Engine | EngineProcess, last: int) -> tuple[str, Usage]:
    prompt = (*DOCUMENT, *range(40, 60), last)
    text = ""
    for event in engine.generate(GenerationRequest("one", prompt, SamplingParams(temperature=0), 4)):
        if isinstance(event, Finished):
            return text, event.usage
        text += getattr(event, "text", "")
    raise AssertionError("no end")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    """Options with which everything is worth keeping."""
    monkeypatch.setattr(worth, "load_pays", lambda *_: True)
    monkeypatch.setattr(worth, "save_pays", lambda *_: True)
    return EngineOptions(n_ctx=1024, n_threads=1, prefix_cache=PrefixCacheOptions(tmp_path / "prefixes", 1 << 28))


def test_an_engine_in_a_process_of_its_own_reads_what_another_wrote(model: Path, options: EngineOptions) -> None:
    options = replace(options, offload=OffloadOptions("off"))
    with Engine.open(model, options) as engine:
        here, _ = answer(engine, 99)
    for entry in stored_files(options.prefix_cache.folder):  # type: ignore[union-attr]
        pretend_to_be_slow(entry.path)
    with EngineProcess.open(model, options) as process:
        there, usage = answer(process, 99)
    assert usage.n_from_disk == len(DOCUMENT) + 20
    assert there == here


def pretend_to_be_slow(path: Path) -> None:
    """Say in a file's record that its tokens took ten milliseconds each: the child's own judgement is the true one."""

    data = path.read_bytes()
    length = struct.unpack("<I", data[-16:-12])[0]
    record = json.loads(data[-16 - length : -16]) | {"token_s": 0.01}
    text = json.dumps(record).encode()
    path.write_bytes(data[: -16 - length] + text + struct.pack("<II8s", len(text), zlib.crc32(text), b"qwenkv01"))


@pytest.mark.parametrize("n_slots", [4, 2])
def test_with_experts_that_are_read_from_the_file(model: Path, options: EngineOptions, n_slots: int) -> None:
    options = replace(options, repack=False, offload=OffloadOptions("on", layout="plain", n_slots=n_slots))
    with Engine.open(model, replace(options, prefix_cache=None)) as engine:
        expected, _ = answer(engine, 99)
    with Engine.open(model, options) as engine:
        assert answer(engine, 70)[1].n_from_disk == 0
    with Engine.open(model, options) as engine:
        text, usage = answer(engine, 99)
    assert usage.n_from_disk == len(DOCUMENT) + 20
    assert text == expected
