"""The first load in a child: good files pass and are remembered, bad ones end in one line, and this process lives."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from quant.errors import GgufError
from qwenctl.errors import ModelLoadFailed
from qwenctl.services import load_trial
from qwenctl.services.load_record import identity_of, is_remembered, remember
from qwenctl.services.load_trial import try_load
from qwenctl.settings import Settings
from tests.attacks.malformed_gguf import CASES
from tests.tiny_gguf import STRING, TinyGguf


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.from_environment({"HOME": str(home)})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths for which a child was really started."""
    started: list[Path] = []
    run_child = load_trial._run_child

    def counted(path: Path, *, compute: bool, time_limit_s: float) -> None:
        started.append(path)
        run_child(path, compute=compute, time_limit_s=time_limit_s)

    monkeypatch.setattr(load_trial, "_run_child", counted)
    return started


def test_a_file_that_passed_is_not_tried_again_until_it_changes(
    tmp_path: Path, settings: Settings, runs: list[Path]
) -> None:
    path = TinyGguf.of("qwen3moe").write(tmp_path / "model.gguf")
    for _ in range(2):
        try_load(path, settings)
    assert len(runs) == 1
    os.utime(path, ns=(1, 1))
    try_load(path, settings)
    assert len(runs) == 2
    (record,) = (settings.cache_dir / "loadable").iterdir()
    content = json.loads(record.read_text())
    content["library"] = "another build"
    record.write_text(json.dumps(content))
    try_load(path, settings)
    record.write_text("no json")
    try_load(path, settings)
    assert len(runs) == 4
    shutil.rmtree(settings.cache_dir)
    settings.cache_dir.write_text("a file where the folder should be")
    try_load(path, settings)


def test_the_pre_flight_needs_no_child(tmp_path: Path, settings: Settings, runs: list[Path]) -> None:
    (case,) = (case for case in CASES if case.name == "token twice")
    with pytest.raises(GgufError):
        try_load(case.make(tmp_path), settings)
    with pytest.raises(GgufError):
        try_load(tmp_path / "no-such-file.gguf", settings)
    assert runs == []


def test_what_llama_cpp_refuses_is_reported_with_its_reason(tmp_path: Path, settings: Settings) -> None:
    tiny = TinyGguf.of("qwen3")
    tiny.pairs["general.architecture"] = (STRING, "unheard-of")
    tiny.pairs |= {key.replace("qwen3.", "unheard-of."): value for key, value in tiny.pairs.items()}
    path = tiny.write(tmp_path / "model.gguf")
    with pytest.raises(
        ModelLoadFailed, match=r"model\.gguf: llama\.cpp refuses it: .*unknown model arch.*unheard-of"
    ) as failed:
        try_load(path, settings)
    assert "\n" not in failed.value.message
    assert not (settings.cache_dir / "loadable").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("token twice", r"SIGABRT\): llama-vocab\.cpp:\d+: GGML_ASSERT"), ("router in F64", "SIG")]
)
def test_a_crash_is_one_line_here(name: str, message: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == name)
    with pytest.raises(ModelLoadFailed, match=message) as failed:
        load_trial._run_child(case.make(tmp_path), compute=True, time_limit_s=60)
    assert "\n" not in failed.value.message


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = TinyGguf.of().write(tmp_path / "model.gguf")
    with pytest.raises(ModelLoadFailed, match=r"after 0\.01 s"):
        load_trial._run_child(path, compute=True, time_limit_s=0.01)


def test_large_files_are_planned_not_read(tmp_path: Path) -> None:
    """Without --compute neither weights nor cache are allocated: the data need not even be there."""
    path = TinyGguf.of("qwen3moe").write(tmp_path / "model.gguf")
    load_trial._run_child(path, compute=False, time_limit_s=60)


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TinyGguf.of().write(tmp_path / "model.gguf")
    (tmp_path / "llama_cpp.py").write_text("raise SystemExit('imported')")
    (tmp_path / "types.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    load_trial._run_child(path, compute=False, time_limit_s=60)


def test_any_change_of_a_split_set_is_another_identity(tmp_path: Path) -> None:
    first, second = (tmp_path / f"a[1]-0000{number}-of-00002.gguf" for number in (1, 2))
    cache = tmp_path / "cache"
    first.write_bytes(b"x")
    second.write_bytes(b"x")
    before = identity_of(first)
    remember(first, before, cache)
    assert is_remembered(first, before, cache)
    second.write_bytes(b"xy")
    assert not is_remembered(first, identity_of(first), cache)
    second.unlink()
    assert identity_of(first) is None
    assert not is_remembered(first, None, cache)
