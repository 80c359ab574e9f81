"""`qwenctl convert --format awq|gptq`: options, streams, exit codes, and a folder that the program reads itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quant.imatrix_file import write_imatrix
from tests.cli.conftest import Ran
from tests.quant.export_runs import LEFT, SMALLEST, beside, digest, small_plan, statistics, written_moments
from tests.tiny_checkpoint import TinyModel, write_checkpoint

Qwenctl = Callable[..., Ran]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), SMALLEST)


@pytest.fixture(scope="module")
def imatrix(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    write_imatrix(statistics(small_plan(source))[0], path)
    return path


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_prints_the_path_alone_on_stdout(
    kind: str, qwenctl: Qwenctl, source: Path, imatrix: Path, tmp_path: Path
) -> None:
    ran = qwenctl("convert", source, tmp_path / "out", "--format", kind, "--imatrix", imatrix)
    assert (ran.code, ran.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert f"{kind}: " in ran.stderr
    assert "bits a weight" in ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == kind


def test_json(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = qwenctl("convert", source, out, "--format", "awq", "--group-size", "64", "--threads", "3", "--json")
    result = json.loads(ran.stdout)
    assert (result["path"], result["format"], result["n_threads"], result["n_shards"]) == (str(out), "awq", 3, 1)
    on_disk = sum(path.stat().st_size for path in out.iterdir() if path.name != "SHA256SUMS")
    assert result["n_bytes"] == on_disk


def test_dry_run_prints_the_plan_and_writes_nothing(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", source, tmp_path / "out", "--format", "awq", "--dry-run", "--shard-size", "1MiB")
    assert ran.code == 0
    assert "model.layers.0.mlp.experts.1.down_proj.qweight  128 x 16" in ran.stdout
    assert "AWQ-4bit" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_json_is_the_plan(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", source, tmp_path / "out", "--format", "gptq", "--dry-run", "--json")
    plan = json.loads(ran.stdout)
    assert (plan["format"], plan["group_size"]) == ("gptq", 128)
    assert {"name", "shape", "type", "file", "offset_bytes", "n_bytes"} == plan["tensors"][0].keys()
    assert sum(file["n_bytes"] for file in plan["files"]) == plan["total_bytes"]
    assert any("symmetric" in warning for warning in plan["warnings"])


def test_statistics_of_both_kinds(qwenctl: Qwenctl, source: Path, imatrix: Path, tmp_path: Path) -> None:
    hessians = tmp_path / "h.safetensors"
    written_moments(hessians, statistics(small_plan(source))[1])
    arguments = ("convert", source, tmp_path / "out", "--format", "awq", "--imatrix", imatrix, "--hessians", hessians)
    ran = qwenctl(*arguments, "-q")
    assert (ran.code, ran.stderr) == (0, "".join(f"{line}\n" for line in ran.stderr.splitlines() if "GPUs" in line))
    without = qwenctl("convert", source, tmp_path / "plain", "--format", "awq", "--imatrix", imatrix)
    assert without.code == 0
    assert digest(tmp_path / "plain") != digest(tmp_path / "out")


def test_without_statistics_it_warns(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", source, tmp_path / "out", "--format", "awq")
    assert ran.code == 0
    assert "warning: no statistics of activations" in ran.stderr
    assert "warning: tensor parallelism over 2, 4, 8 GPUs cuts moe_intermediate_size 128 into 64, 32, 16" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--format", "awq", "--type", "q8_0"), 2, "--type is for GGUF"),
        (("--hessians", "h"), 2, "--hessians is for AWQ and GPTQ"),
        (("--group-size", "64"), 2, "--group-size is for AWQ and GPTQ"),
        (("--format", "awq", "--group-size", "100"), 2, "'100' is not one of"),
        (("--format", "exl2"), 2, "'exl2' is not one of"),
        (("--format", "awq", "--imatrix", "{folder}/nothing"), 1, "nothing"),
        (("--format", "awq", "--imatrix", "{source}/tokenizer.json"), 1, "not an importance matrix"),
        (("--format", "awq", "--hessians", "{source}/model-00001-of-00002.safetensors"), 1, "no second moments"),
    ],
)
def test_options_that_make_no_sense(
    words: tuple[str, ...], code: int, said: str, qwenctl: Qwenctl, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("out" if "--format" in words else "out.gguf")
    ran = qwenctl("convert", source, out, *(word.format(folder=tmp_path, source=source) for word in words))
    assert (ran.code, ran.stdout) == (code, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_make_no_sense(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for out, code, said in (
        (tmp_path / "nowhere" / "out", 2, "does not exist"),
        (tmp_path / "m.gguf", 2, "AWQ and GPTQ are folders"),
        (tmp_path / "file", 1, "not a folder"),
        (source, 1, "holds the source"),
    ):
        ran = qwenctl("convert", source, out, "--format", "awq", "--force")
        assert (ran.code, said in ran.stderr) == (code, True), ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_too_small_exits_3(
    qwenctl: Qwenctl, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant.partial_output.DISK_RESERVE_BYTES", 1 << 60)
    ran = qwenctl("convert", source, tmp_path / "out", "--format", "awq")
    assert (ran.code, "bytes free" in ran.stderr) == (3, True)
    assert list(tmp_path.iterdir()) == []


def test_an_export_becomes_a_gguf_file(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    assert qwenctl("convert", source, tmp_path / "out", "--format", "awq").code == 0
    ran = qwenctl("convert", tmp_path / "out", tmp_path / "m.gguf", "--type", "f32")
    assert ran.code == 0
    assert "quantized already (AWQ, 4 bits, groups of 128)" in ran.stderr


def test_ctrl_c_keeps_what_is_done(qwenctl: Qwenctl, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", TinyModel(n_layers=2, n_experts=64, vocab_size=8192))
    command = [
        sys.executable,
        "-m",
        "qwenctl",
        "convert",
        source,
        tmp_path / "out",
        "--format",
        "awq",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = tmp_path / "out.journal"
    while process.poll() is None and not (journal.exists() and b"process" in journal.read_bytes()):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, b"")
    assert b"the same command resumes" in stderr
    assert b"Traceback" not in stderr
    assert beside(tmp_path / "out") == LEFT
    assert qwenctl("convert", source, tmp_path / "out", "--format", "awq").code == 0
    assert qwenctl("convert", source, tmp_path / "whole", "--format", "awq").code == 0
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
