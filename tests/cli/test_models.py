"""`qwenctl models` and the commands below it."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
from pathlib import Path

import click
import pytest

from qwenctl.cli.command import Command, CommandGroup
from qwenctl.cli.main import cli
from qwenctl.services.model_origin import Origin, OriginFile, read_origin, write_origin
from tests.tiny_gguf import TinyGguf

BELOW = ("ls", "show", "verify", "default", "rm", "prune")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyGguf.of("qwen3moe").write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def models(home):
    folder = home / "data" / "qwenctl" / "models"
    folder.mkdir(parents=True)
    return folder


def pulled(path: Path, asked: str = "qwen3:8b", sha256: str | None = None, **more) -> Path:
    """Write the record of a pulled file."""
    file = OriginFile(path.name, path.stat().st_size, sha256 or "0" * 64, "Tiny-Q4_K_M.gguf")
    origin = Origin(
        asked, "https://hub", "o/Tiny-GGUF", "main", "c" * 40, "2026-11-26T07:00:00Z", files=(file,), **more
    )
    write_origin(path, origin)
    return path


@pytest.fixture
def stored(models, tiny):
    return pulled(Path(shutil.copy(tiny, models / "tiny-q4_k_m.gguf")), license="apache-2.0")


def group() -> CommandGroup:
    found = cli.get_command(click.Context(cli), "models")
    assert isinstance(found, CommandGroup)
    return found


@pytest.mark.parametrize("name", BELOW)
def test_every_command_below_explains_itself(name):
    below = group().get_command(click.Context(group()), name)
    assert isinstance(below, Command)
    assert below.get_short_help_str(200) == group().entries[name].summary
    assert all(isinstance(p, click.Argument) or p.help for p in below.params)
    assert "--json" in [opt for parameter in below.params for opt in parameter.opts]
    assert below.examples
    for example in below.examples:
        words = shlex.split(example.split("  #")[0].split("|")[0])
        assert words[:3] == ["qwenctl", "models", name]
        with click.Context(below, resilient_parsing=True) as context:
            below.parse_args(context, words[3:])


def test_the_table_of_commands_is_all_there_is():
    assert tuple(group().list_commands(click.Context(group()))) == BELOW


def test_a_near_miss_is_answered(qwenctl):
    ran = qwenctl("models", "pune")
    assert (ran.code, "did you mean 'prune'" in ran.stderr) == (2, True)


@pytest.mark.parametrize("words", [("models",), ("models", "ls")])
def test_the_list(qwenctl, stored, tiny, models, words):
    shutil.copy(tiny, models / "mine.gguf")
    ran = qwenctl(*words)
    assert ran.stdout.splitlines()[0].split() == ["NAME", "SIZE", "TYPE", "FROM", "PATH"]
    assert "o/Tiny-GGUF" in ran.stdout
    assert "in all" in ran.stderr
    found = {model["name"]: model for model in json.loads(qwenctl(*words, "--json").stdout)}
    assert set(found) == {"mine", "tiny-q4_k_m"}
    assert found["mine"]["repo"] is None
    assert found["tiny-q4_k_m"]["repo"] == "o/Tiny-GGUF"
    assert found["mine"]["bytes"] == tiny.stat().st_size


def test_no_models_is_told_with_what_to_do(qwenctl):
    ran = qwenctl("models")
    assert (ran.code, ran.stdout) == (0, "")
    assert "qwenctl pull gets them" in ran.stderr


def test_a_split_set_is_one_model(qwenctl, models):
    for number in (1, 2, 3):
        (models / f"big-0000{number}-of-00003.gguf").write_bytes(b"x" * number)
    [model] = json.loads(qwenctl("models", "--json").stdout)
    assert (model["name"], model["files"], model["bytes"]) == ("big", 3, 6)
    assert model["path"].endswith("big-00001-of-00003.gguf")
    ran = qwenctl("models", "rm", "big")
    assert ran.code == 0
    assert list(models.iterdir()) == []


def test_show_tells_where_it_came_from(qwenctl, stored, models, tiny):
    for name in ("tiny-q4_k_m", "qwen3:8b"):  # also by what it was pulled by
        ran = qwenctl("models", "show", name)
        for words in ("https://hub/o/Tiny-GGUF/tree/" + "c" * 40, "apache-2.0", "2026-11-26T07:00:00Z", "0" * 64):
            assert words in ran.stdout
    document = json.loads(qwenctl("models", "show", "tiny-q4_k_m", "--json").stdout)
    assert document["origin"]["commit"] == "c" * 40
    shutil.copy(tiny, models / "mine.gguf")
    assert "made here" in qwenctl("models", "show", "mine").stdout
    ran = qwenctl("models", "show", "none")
    assert (ran.code, ran.stdout) == (1, "")


def test_a_name_of_the_hub_that_is_not_here_is_answered_with_pull(qwenctl, models):
    assert "get it: qwenctl pull qwen3:8b" in qwenctl("models", "show", "qwen3:8b").stderr
    assert "get it: qwenctl pull Qwen/Qwen3-8B" in qwenctl("run", "Qwen/Qwen3-8B", "hello").stderr


def test_verify_names_what_is_damaged(qwenctl, models, demo_gguf, stored):
    """One with digests, one with the hub's hash (a wrong one here), one of which nothing is known."""
    for suffix in ("", ".digests.json"):
        shutil.copy(f"{demo_gguf}{suffix}", models / f"sound.gguf{suffix}")
    shutil.copy(stored, models / "unknown.gguf")
    ran = qwenctl("models", "verify")
    assert ran.code == 1
    assert f"{stored}: damaged" in ran.stderr
    assert "fetch it again: qwenctl pull qwen3:8b --force" in ran.stderr
    assert "1 of 3 models damaged: tiny-q4_k_m" in ran.stderr
    assert "sound: " in ran.stdout
    assert "no digests beside it" in ran.stderr
    [damaged] = json.loads(qwenctl("models", "verify", "tiny-q4_k_m", "--json").stdout)
    assert "damaged" in damaged["damage"]
    assert qwenctl("models", "verify", "sound").code == 0
    with (models / "sound.gguf").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert qwenctl("models", "verify", "sound").code == 1


def test_the_default_model(qwenctl, stored):
    assert qwenctl("models", "default").stdout == "demo\n"
    assert qwenctl("models", "default", "tiny-q4_k_m").stdout == "tiny-q4_k_m\n"
    assert "default: tiny-q4_k_m" in qwenctl("models").stderr
    assert json.loads(qwenctl("models", "--json").stdout)[0]["default"] is True
    ran = qwenctl("experts", "--json")  # any command that takes a MODEL would do: this one is quick to fail
    assert "demo" not in ran.stderr
    assert qwenctl("models", "default", "none").code == 1
    assert qwenctl("models", "default", "tiny-q4_k_m", "--unset").code == 2
    assert qwenctl("models", "default", "--unset").stdout == "demo\n"
    assert json.loads(qwenctl("models", "default", "--json").stdout) == {"default": "demo", "is_chosen": False}


def test_a_default_model_that_is_gone_is_an_error_not_the_demo(qwenctl, stored):
    qwenctl("models", "default", "tiny-q4_k_m")
    stored.unlink()
    ran = qwenctl("run", stdin="hello")
    assert ran.code == 1
    assert "the default model tiny-q4_k_m is not there" in ran.stderr
    assert "--unset" in ran.stderr


def test_removing_takes_all_that_belongs_to_it_and_says_what_is_freed(qwenctl, stored, models, tiny):
    (models / "tiny-q4_k_m.gguf.digests.json").write_text("{}")
    shutil.copy(tiny, models / "other.gguf")
    qwenctl("models", "default", "qwen3:8b")  # by what it was pulled by
    dry = json.loads(qwenctl("models", "rm", "tiny-q4_k_m", "--dry-run", "--json").stdout)
    assert len(dry["files"]) == 3
    assert dry["freed_bytes"] >= tiny.stat().st_size
    assert stored.exists()
    ran = qwenctl("models", "rm", "tiny-q4_k_m")
    assert ran.code == 0
    assert "freed" in ran.stderr
    assert "was the default model" in ran.stderr
    assert [path.name for path in models.iterdir()] == ["other.gguf"]
    assert qwenctl("models", "default").stdout == "demo\n"


def test_only_models_of_ours_are_removed(qwenctl, stored, models, tiny, tmp_path):
    elsewhere = Path(shutil.copy(tiny, tmp_path / "elsewhere.gguf"))
    for name, code in ((elsewhere, 2), ("demo", 2), ("none", 1), ("../models/tiny-q4_k_m", 1)):
        assert qwenctl("models", "rm", name).code == code
    assert qwenctl("models", "rm", "tiny-q4_k_m", "none").code == 1
    assert elsewhere.exists()
    assert stored.exists()  # nothing goes where one of the names means nothing


def test_a_link_goes_and_what_it_leads_to_stays(qwenctl, models, tiny, tmp_path):
    blob = Path(shutil.copy(tiny, tmp_path / "blob"))
    (models / "linked.gguf").symlink_to(blob)
    [model] = json.loads(qwenctl("models", "--json").stdout)
    assert model["linked_bytes"] == model["bytes"] == tiny.stat().st_size
    assert json.loads(qwenctl("models", "rm", "linked", "--json").stdout)["freed_bytes"] == 0
    assert blob.exists()
    assert list(models.iterdir()) == []


def test_a_link_that_leads_nowhere_is_told_and_can_go(qwenctl, models):
    (models / "lost.gguf").symlink_to("/nowhere/blob")
    ran = qwenctl("models")
    assert "its file in the Hugging Face cache is gone; pull it again" in ran.stderr
    assert qwenctl("models", "rm", "lost").code == 0
    assert list(models.iterdir()) == []


def test_prune_removes_leftovers_and_nothing_else(qwenctl, stored, models, home):
    leftovers = [
        "a.gguf.partial",
        "a.gguf.journal",
        "b.gguf.origin.json",
        "c.gguf.digests.json",
        "d.gguf.999999999.new",
    ]
    for name in leftovers:
        (models / name).write_bytes(b"x" * 10_000)
    (models / ".e.gguf.source").mkdir()
    (models / ".e.gguf.source" / "config.json").write_text("{}")
    (models / "lost.gguf").symlink_to("/nowhere")
    cache = home / "cache" / "qwenctl"
    cache.mkdir(parents=True)
    (cache / "demo-q4_k_m-0123456789ab.gguf").write_text("x")
    (cache / "loadable").mkdir()
    (cache / "loadable" / "gone.json").write_text('{"files": [["/nowhere.gguf", 1, 2]]}')
    (cache / "loadable" / "here.json").write_text(json.dumps({"files": [[str(stored), 1, 2]]}))
    (cache / "steps").mkdir()
    (cache / "steps" / "unloved.json").write_text('{"files": [["/nowhere.gguf", 1, 2]]}')
    expected = {*leftovers, "unloved.json", ".e.gguf.source", "lost.gguf", "demo-q4_k_m-0123456789ab.gguf", "gone.json"}
    dry = json.loads(qwenctl("models", "prune", "--dry-run", "--json").stdout)
    assert {Path(file["path"]).name for file in dry["files"]} == expected
    assert (models / "a.gguf.partial").exists()
    ran = qwenctl("models", "prune")
    assert ran.code == 0
    assert sorted(path.name for path in models.iterdir()) == [stored.name, f"{stored.name}.origin.json"]
    assert [path.name for path in (cache / "loadable").iterdir()] == ["here.json"]
    assert "nothing to remove" in qwenctl("models", "prune").stderr


def test_prune_leaves_what_a_process_is_at_work_on(qwenctl, models):
    (models / "a.gguf.partial").write_bytes(b"x")
    (models / "a.gguf.digests.json.partial").write_bytes(b"x")
    (models / f"b.gguf.{os.getpid()}.new").write_bytes(b"x")
    with (models / "a.gguf.journal").open("wb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        assert "nothing to remove" in qwenctl("models", "prune").stderr
    assert len(json.loads(qwenctl("models", "prune", "--json").stdout)["files"]) == 3


def test_records_are_read_as_they_were_written_and_bad_ones_are_told(qwenctl, stored):
    origin = read_origin(stored)
    assert origin.asked == "qwen3:8b"
    write_origin(stored, origin)
    assert read_origin(stored) == origin
    stored.with_name(stored.name + ".origin.json").write_text('{"format": "model-origin", "version": 9}')
    ran = qwenctl("models")
    assert ran.code == 0
    assert "not a record of version 1" in ran.stderr
