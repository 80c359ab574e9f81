"""`qwenctl imatrix`: the coverage report, JSON, warnings by name, merging alone, Ctrl-C, refusals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quant.imatrix_file import read_imatrix
from tests.cli.conftest import Ran
from tests.services.imatrix_models import write_model

pytestmark = pytest.mark.usefixtures("shared_cache")
Run = Callable[..., Ran]
QUICK = ["--ctx", "64", "--threads", "1", "--offload", "off"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "q8_0")


@pytest.fixture
def few_words(tmp_path: Path) -> Path:
    """So little text that some experts see nothing."""
    path = tmp_path / "few.txt"
    path.write_text("a" * 40)
    return path


def test_the_report_says_what_experts_saw(qwenctl: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"
    ran = qwenctl("imatrix", model, "-o", out, "--chunks", "16", *QUICK)
    assert ran.code == 0
    header, *rows = ran.stdout.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == [
        "layer",
        "experts",
        "least tokens",
        "median",
        "most",
        "never routed",
    ]
    assert [row.split()[:2] for row in rows] == [["0", "8"], ["1", "8"], ["2", "8"]]
    counts = read_imatrix(out).entries["blk.1.ffn_up_exps.weight"].counts
    assert [int(one) for one in rows[1].split()[2:5:2]] == [int(counts.min()), int(counts.max())]
    assert re.search(r"a\.gguf: 24 weights · 1,024 tokens read in 16 chunks · ", ran.stderr)
    assert read_imatrix(out).datasets == ("qwenctl calibration text",)


def test_experts_that_saw_nothing_are_named(qwenctl: Run, model: Path, few_words: Path, tmp_path: Path) -> None:
    ran = qwenctl("imatrix", model, "-o", tmp_path / "a.gguf", "--text", few_words, "--json", *QUICK)
    document = json.loads(ran.stdout)
    assert document["n_tokens_read"] == 41
    never = {layer["layer"]: layer["never_routed"] for layer in document["layers"]}
    assert any(never.values())
    for layer in document["layers"]:
        assert [e for e, tokens in enumerate(layer["tokens"]) if tokens == 0] == layer["never_routed"]
    first = next(layer for layer, experts in never.items() if experts)
    listed = ", ".join(map(str, never[first]))
    assert f"never routed to have no statistics: blk.{first} ({listed})" in ran.stderr
    assert "--top-up" in ran.stderr


def test_thin_experts_are_counted_after_topping_up(qwenctl: Run, model: Path, few_words: Path, tmp_path: Path) -> None:
    words = ["imatrix", model, "-o", tmp_path / "a.gguf", "--text", few_words, *QUICK]
    ran = qwenctl(*words, "--top-up", "5000", "--top-up-tokens", "1k", "--json")
    document = json.loads(ran.stdout)
    assert 0 < document["n_tokens_written"] <= 1024
    n_thin = sum(len(layer["thin"]) for layer in document["layers"])
    written = f"{document['n_tokens_written']:,}"
    assert f"{n_thin} experts still have fewer than 5000 tokens after {written} tokens of the model's own" in ran.stderr


def test_second_moments_that_do_not_fit_are_named(qwenctl: Run, model: Path, tmp_path: Path) -> None:
    words = ["imatrix", model, "-o", tmp_path / "a.gguf", "--chunks", "1", *QUICK, "--hessians", tmp_path / "h"]
    ran = qwenctl(*words, "--hessian-budget", "1MiB")
    assert ran.code == 0
    assert "--hessian-budget left no room for the second moments of blk.0.attn_output.weight" in ran.stderr
    assert (tmp_path / "h").stat().st_size < (1 << 20) + 8192  # with its header


def test_files_are_merged_without_a_model(qwenctl: Run, model: Path, tmp_path: Path) -> None:
    for name, n_chunks in (("a", 2), ("b", 3)):
        qwenctl("imatrix", model, "-o", tmp_path / name, "--chunks", n_chunks, "-q", *QUICK)
    merge = ["--merge", tmp_path / "a", "--merge", tmp_path / "b"]
    ran = qwenctl("imatrix", "-o", tmp_path / "c", *merge, "--chunks", "0", "--json")
    assert ran.code == 0
    found = json.loads(ran.stdout)
    assert (found["n_chunks"], found["n_tokens_read"]) == (5, 0)
    assert read_imatrix(tmp_path / "c").digest == found["digest"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--chunks", "0"], 2, "nothing to merge and no text to read"),
        (["--text", "none.txt"], 2, "none.txt: No such file or directory"),
        (["--merge", "none.gguf"], 1, "none.gguf: No such file or directory"),
        (["--offload", "off", "--ram", "1GiB"], 2, "--ram and --offload off exclude each other"),
        (["--offload", "on", "--ram", "16MiB"], 3, "the model needs at least"),
        (["--ctx", "0"], 2, "not a number of tokens"),
    ],
)
def test_refusals(qwenctl: Run, model: Path, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    ran = qwenctl("imatrix", model, "-o", tmp_path / "a.gguf", *words)
    assert ran.code == code
    assert message in ran.stderr
    assert ran.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_replaced(qwenctl: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    ran = qwenctl("imatrix", model, "-o", tmp_path / "a", "--chunks", "1", *QUICK)
    assert ran.code == 1
    assert "a is there already" in ran.stderr
    assert (tmp_path / "a").read_text() == "mine"


def test_ctrl_c(model: Path, tmp_path: Path) -> None:
    words = ["imatrix", str(model), "-o", str(tmp_path / "a.gguf"), "--ctx", "512", "--threads", "1"]
    words += ["--top-up", "1000000", "--top-up-tokens", "100000k"]  # for ever
    process = subprocess.Popen([sys.executable, "-m", "qwenctl", *words], stdout=-1, stderr=-1, start_new_session=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"reading ")  # the first line of progress
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == b""
    assert stderr.splitlines()[-1] == b"interrupted"
    assert b"Traceback" not in stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"a.gguf.partial"}
