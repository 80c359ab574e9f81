"""`qwenctl eval`: which words are what, what is on which stream, exit codes, Ctrl-C and a reader that leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qwenctl.cli.evaluation_words import tell_apart
from qwenctl.errors import InvalidRequest, ModelNotFound
from qwenctl.settings import Settings
from tests.cli.conftest import Ran
from tests.tiny_gguf import TinyGguf

Qwenctl = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("shared_cache")

WORDS = "It was late when the last of them came down from the hill, and nobody spoke. "


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads wait for each other, on a busy machine for long."""
    monkeypatch.setenv("QWENCTL_THREADS", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyGguf.of("qwen3moe").write(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 4)
    return path


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "data", tmp_path / "cache", model.parent)


def test_the_last_word_is_the_text(settings: Settings, model: Path, text: Path) -> None:
    assert tell_apart([str(model), str(text)], settings) == ((str(model),), str(text))
    assert tell_apart([str(model), "tiny", str(text)], settings) == ((str(model), "tiny"), str(text))
    assert tell_apart([str(text)], settings) == ((), str(text))
    assert tell_apart(["tiny", "-"], settings) == (("tiny",), "-")
    assert tell_apart(["tiny", "demo"], settings) == (("tiny", "demo"), None)
    assert tell_apart([], settings) == ((), None)
    assert tell_apart(["tiny", "/dev/null"], settings) == (("tiny",), "/dev/null")


def test_words_that_are_neither(settings: Settings, text: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model nothing"):
        tell_apart(["nothing", str(text)], settings)
    with pytest.raises(ModelNotFound, match="no model nothing"):
        tell_apart(["nothing"], settings)
    with pytest.raises(ModelNotFound, match=r"nothing\.gguf"):
        tell_apart(["tiny", "nothing.gguf"], settings)
    with pytest.raises(InvalidRequest, match=r"nothing\.txt is neither a text file nor a model"):
        tell_apart(["tiny", "nothing.txt"], settings)
    with pytest.raises(InvalidRequest, match="neither a text file nor a model"):
        tell_apart(["tiny", str(text.parent)], settings)


def test_perplexity_as_a_table(qwenctl: Qwenctl, model: Path, text: Path) -> None:
    ran = qwenctl("eval", "ppl", model, text, "--ctx", "64")
    assert ran.code == 0
    header, line = ran.stdout.splitlines()
    assert header.split() == ["MODEL", "SIZE", "BPW", "PPL", "CHUNKS", "TOKENS"]
    assert line.startswith("tiny  ")
    assert line.split()[-2:] == ["4", "124"]
    assert "±" in line
    assert "\x1b" not in ran.stdout + ran.stderr


def test_divergence_as_a_table(qwenctl: Qwenctl, model: Path, text: Path) -> None:
    ran = qwenctl("eval", "kld", model, model, "--reference", model, text, "--ctx", "64")
    assert ran.code == 0
    lines = ran.stdout.splitlines()
    assert [line.split()[0] if line else "" for line in lines] == ["MODEL", *["tiny"] * 3, "", "MODEL", *["tiny"] * 3]
    assert "0.000000 ± 0.000000" in lines[1]
    assert "100.00 ± 0.00" in lines[6]
    assert "-0.0" not in ran.stdout
    assert "124 tokens of" in ran.stderr
    assert max(map(len, lines)) <= 100


def test_json(qwenctl: Qwenctl, model: Path, text: Path) -> None:
    ran = qwenctl("eval", "ppl", model, text, "--ctx", "64", "--chunks", "2", "--json")
    document = json.loads(ran.stdout)
    assert (document["text"], document["n_ctx"]) == (str(text), 64)
    entry = document["models"][0]
    assert (entry["path"], entry["n_bytes"]) == (str(model), model.stat().st_size)
    assert (entry["n_chunks"], entry["n_tokens"], entry["bits_per_weight"]) == (2, 62, 32.0)
    ran = qwenctl("eval", "kld", model, "--reference", model, text, "--ctx", "64", "--json")
    document = json.loads(ran.stdout)
    assert document["reference"]["perplexity"]["value"] > 1
    divergence = document["models"][0]["divergence"]
    assert (divergence["mean"], divergence["percentile_99_9"], divergence["same_top"]) == (0.0, 0.0, 1.0)
    assert document["models"][0]["perplexity_ratio"] == {"value": 1.0, "error": 0.0}
    assert set(document["models"][0]["probability_change"]) == {"mean", "rms"}


def test_text_from_standard_input(qwenctl: Qwenctl, model: Path, text: Path) -> None:
    from_file = json.loads(qwenctl("eval", "ppl", model, text, "--ctx", "64", "--json").stdout)
    ran = qwenctl("eval", "ppl", model, "-", "--ctx", "64", "--json", stdin=text.read_bytes())
    piped = json.loads(ran.stdout)
    assert piped["text"] == "standard input"
    assert piped["models"] == from_file["models"]


def test_text_that_is_no_utf8_is_read_with_a_warning(qwenctl: Qwenctl, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 " * 40)
    ran = qwenctl("eval", "ppl", model, path, "--ctx", "32")
    assert ran.code == 0
    assert "not UTF-8 (byte 3)" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["kld", "{model}", "{text}"], 2, "kld needs a reference"),
        (["ppl", "{model}", "{text}", "--reference", "{model}"], 2, "ppl has no reference"),
        (["ppl", "{model}", "{text}"], 2, "is too short: 308 tokens, and one chunk takes 512"),
        (["ppl", "{model}", "{text}", "--ctx", "2"], 2, "at least 4 tokens"),
        (["ppl", "{model}", "{text}", "--ram", "1GiB", "--offload", "off"], 2, "exclude each other"),
        (["ppl", "{model}", "{text}", "--offload", "on", "--ctx", "64", "--ram", "16MiB"], 3, "needs at least"),
        (["bpw", "{model}", "{text}"], 2, "bpw"),
        (["ppl", "{text}x", "{text}"], 1, "no model"),
        (["kld", "{model}", "--reference", "{text}", "{text}"], 1, "no model"),
        (["ppl", "{model}", "{model}x"], 2, "neither a text file nor a model"),
    ],
)
def test_what_makes_no_sense(qwenctl: Qwenctl, model: Path, text: Path, words: list[str], code: int, said: str) -> None:
    ran = qwenctl("eval", *[word.format(model=model, text=text) for word in words])
    assert (ran.code, ran.stdout) == (code, "")
    assert said in ran.stderr
    assert ran.stderr.startswith("error: ")
    assert "Traceback" not in ran.stderr


def test_another_vocabulary(qwenctl: Qwenctl, model: Path, demo_gguf: Path, text: Path) -> None:
    ran = qwenctl("eval", "kld", demo_gguf, "--reference", model, text, "--ctx", "64")
    assert (ran.code, ran.stdout) == (2, "")
    assert "4,096 and 259 tokens" in ran.stderr


def test_a_model_that_is_damaged(qwenctl: Qwenctl, model: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes()[:-5000])
    ran = qwenctl("eval", "ppl", path, text, "--ctx", "64")
    assert (ran.code, ran.stdout) == (1, "")
    assert "cut off" in ran.stderr


def test_the_built_in_text(qwenctl: Qwenctl, model: Path) -> None:
    ran = qwenctl("eval", "ppl", model, "--ctx", "64", "--chunks", "3", "--json")
    assert json.loads(ran.stdout)["text"] == "the built-in text"


def test_a_reader_that_has_left(model: Path, text: Path) -> None:
    command = [sys.executable, "-m", "qwenctl", "eval", "ppl", str(model), str(text), "--ctx", "64"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_ends_it_soon(demo_gguf: Path, tmp_path: Path) -> None:
    """More text than can be computed while the test waits; the signal comes while llama.cpp computes."""
    long_text = tmp_path / "long.txt"
    long_text.write_text(WORDS * 20_000)
    command = [sys.executable, "-m", "qwenctl", "eval", "kld", str(demo_gguf), "--reference", str(demo_gguf)]
    process = subprocess.Popen([*command, str(long_text)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    first_line = process.stderr.readline()  # progress: it computes
    process.send_signal(signal.SIGINT)
    started_s = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    assert b"evaluating" in first_line
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.endswith(b"interrupted\n")
    assert b"Traceback" not in stderr
    assert time.monotonic() - started_s < 30
