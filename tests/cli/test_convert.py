"""The commands that make and inspect files: exit codes, what is on which stream, and Ctrl-C."""

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

from quant.verify import verify_file
from tests.cli.conftest import Ran
from tests.quant.conversion_runs import SMALLEST, digest, leftovers
from tests.tiny_checkpoint import TinyModel, write_checkpoint

Qwenctl = Callable[..., Ran]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), SMALLEST)


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "m.gguf"
    command = [sys.executable, "-m", "qwenctl", "convert", str(source), str(out), "--type", "bf16"]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_convert_prints_the_path_alone_on_stdout(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", source, tmp_path / "m.gguf", "--type", "Q8_0")
    assert (ran.code, ran.stdout) == (0, f"{tmp_path / 'm.gguf'}\n")
    assert "bits a weight" in ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr


def test_convert_json(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", source, tmp_path / "m.gguf", "--type", "q8_0", "--threads", "3", "--json")
    result = json.loads(ran.stdout)
    assert result["path"] == str(tmp_path / "m.gguf")
    assert (result["n_bytes"], result["n_threads"]) == ((tmp_path / "m.gguf").stat().st_size, 3)
    assert 8 < result["bits_per_weight"] < 9
    assert result["peak_rss_bytes"] > 1 << 20


def test_a_bare_name_goes_among_the_models(qwenctl: Qwenctl, source: Path, home: Path) -> None:
    ran = qwenctl("convert", source, "small", "--type", "q8_0")
    assert ran.stdout == f"{home / 'data' / 'qwenctl' / 'models' / 'small.gguf'}\n"
    assert "small" in qwenctl("models").stdout
    assert qwenctl("verify", "small").code == 0


def test_dry_run_prints_every_tensor_and_writes_nothing(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", source, tmp_path / "m.gguf", "--dry-run")
    assert ran.code == 0
    assert "blk.0.ffn_down_exps.weight  2 x 256 x 256" in ran.stdout
    assert "bits a weight" in ran.stdout
    assert leftovers(tmp_path / "m.gguf") == set()


def test_dry_run_json_is_the_plan(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    plan = json.loads(qwenctl("convert", source, tmp_path / "m.gguf", "--dry-run", "--json").stdout)
    assert plan["type"] == "q4_k_m"
    assert {"name", "shape", "type", "offset_bytes", "n_bytes"} == plan["tensors"][0].keys()
    assert sum(family["n_weights"] for family in plan["families"]) == plan["n_weights"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("{folder}", "is a folder"),
        ("{folder}/nowhere/m.gguf", "does not exist"),
        ("{folder}/m.bin", "does not end in .gguf"),
    ],
)
def test_outputs_that_make_no_sense(qwenctl: Qwenctl, source: Path, tmp_path: Path, out: str, said: str) -> None:
    ran = qwenctl("convert", source, out.format(folder=tmp_path))
    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_existing_output_stays(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("precious")
    ran = qwenctl("convert", source, tmp_path / "m.gguf")
    assert (ran.code, (tmp_path / "m.gguf").read_text()) == (1, "precious")
    assert "--force" in ran.stderr
    assert qwenctl("convert", source, tmp_path / "m.gguf", "--type", "q8_0", "--force").code == 0


def test_sources_that_make_no_sense(qwenctl: Qwenctl, converted: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", converted, tmp_path / "m.gguf")
    assert (ran.code, "qwenctl quantize" in ran.stderr) == (2, True)
    ran = qwenctl("convert", tmp_path, tmp_path / "m.gguf")
    assert (ran.code, "config.json" in ran.stderr) == (1, True)


def test_a_disk_too_small_exits_3(
    qwenctl: Qwenctl, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant.partial_output.DISK_RESERVE_BYTES", 1 << 60)
    ran = qwenctl("convert", source, tmp_path / "m.gguf")
    assert (ran.code, leftovers(tmp_path / "m.gguf")) == (3, set())
    assert "bytes free" in ran.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ran = qwenctl("convert", source, tmp_path / "m.gguf")
    assert (ran.code, "Permission denied" in ran.stderr) == (1, True)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes llama.cpp's encoder some seconds to convert to IQ4_NL on one thread."""
    return write_checkpoint(tmp_path_factory.mktemp("larger"), TinyModel(n_layers=2, vocab_size=8192))


def _start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a conversion, and wait until it works: the journal has its first lines."""
    command = [
        sys.executable,
        "-m",
        "qwenctl",
        "convert",
        str(source),
        str(out),
        "--type",
        "iq4_nl",
        "--exact",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = out.with_name(out.name + ".journal")
    while process.poll() is None and not (journal.exists() and b"process" in journal.read_bytes()):
        time.sleep(0.005)
    return process


def test_ctrl_c_keeps_what_is_done(qwenctl: Qwenctl, larger: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    process = _start(larger, out)
    time.sleep(0.5)  # the first slice has begun, and will be finished
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, b"")
    assert b"the same command resumes" in stderr
    assert b"Traceback" not in stderr
    assert leftovers(out) == {".partial", ".journal"}
    ran = qwenctl("convert", larger, out, "--type", "iq4_nl", "--exact", "--json")
    assert json.loads(ran.stdout)["n_weights_resumed"] > 0
    assert verify_file(out).is_complete


def test_killed_three_times(qwenctl: Qwenctl, larger: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "m.gguf"
    qwenctl("convert", larger, whole, "--type", "iq4_nl", "--exact")
    for pause_s in (0.1, 0.4, 0.2):
        process = _start(larger, out)
        time.sleep(pause_s)
        process.kill()
        process.communicate()
    if leftovers(out) != {"", ".digests.json"}:
        assert qwenctl("convert", larger, out, "--type", "iq4_nl", "--exact").code == 0
    assert digest(out) == digest(whole)


def test_resuming_with_other_settings_is_refused(qwenctl: Qwenctl, larger: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    process = _start(larger, out)
    process.kill()
    process.communicate()
    ran = qwenctl("convert", larger, out, "--type", "q8_0", "--exact")
    assert ran.code == 1
    assert "output type was iq4_nl, is q8_0" in ran.stderr
    assert qwenctl("convert", larger, out, "--type", "q8_0", "--restart").code == 0


def test_quantize(qwenctl: Qwenctl, converted: Path, tmp_path: Path) -> None:
    ran = qwenctl("quantize", converted, tmp_path / "q8.gguf", "--type", "q8_0")
    assert (ran.code, ran.stdout) == (0, f"{tmp_path / 'q8.gguf'}\n")
    again = qwenctl("quantize", tmp_path / "q8.gguf", tmp_path / "q4.gguf", "--type", "q4_0")
    assert (again.code, "--allow-requantize" in again.stderr) == (2, True)
    allowed = qwenctl(
        "quantize", tmp_path / "q8.gguf", tmp_path / "q4.gguf", "--type", "q4_0", "--allow-requantize", "--json"
    )
    assert json.loads(allowed.stdout)["quantized_before"] == ["Q8_0"]
    assert "warning: the input was quantized already" in allowed.stderr


def test_show_a_file_and_its_source(qwenctl: Qwenctl, source: Path, converted: Path) -> None:
    file = json.loads(qwenctl("show", converted, "--json").stdout)
    folder = json.loads(qwenctl("show", source, "--json").stdout)
    for key in ("architecture", "n_weights", "n_weights_active", "n_layers", "n_experts", "template", "sampling"):
        assert file[key] == folder[key], key
    assert (file["architecture"], file["n_experts"], file["n_experts_used"]) == ("qwen3moe", 2, 1)
    assert file["n_weights_active"] < file["n_weights"]
    assert file["template"]["thinking"] == "hybrid"
    assert (file["file_type"], file["bits_per_weight"] > 15.9) == ("bf16", True)


def test_show_prints_families(qwenctl: Qwenctl, converted: Path) -> None:
    ran = qwenctl("show", converted)
    assert "experts        2, of which 1 a token" in ran.stdout
    assert "thinking can be switched" in ran.stdout
    assert "ffn_gate_exps" in ran.stdout


def test_show_a_single_safetensors_file(qwenctl: Qwenctl, source: Path) -> None:
    ran = qwenctl("show", next(source.glob("*.safetensors")))
    assert (ran.code, "safetensors file" in ran.stdout) == (0, True)


@pytest.mark.parametrize("name", ["nothing.gguf", "nothing"])
def test_show_nothing(qwenctl: Qwenctl, tmp_path: Path, name: str) -> None:
    ran = qwenctl("show", tmp_path / name)
    assert (ran.code, ran.stderr.startswith("error: ")) == (1, True)


def test_verify_names_the_damaged_tensor(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    qwenctl("convert", source, out, "--type", "q8_0")
    assert "every byte as it was written" in qwenctl("verify", out).stdout
    data = bytearray(out.read_bytes())
    data[-5000] ^= 1
    out.write_bytes(data)
    ran = qwenctl("verify", out)
    assert (ran.code, ran.stdout) == (1, "")
    assert "damaged: output.weight" in ran.stderr


def test_verify_without_digests_says_so(qwenctl: Qwenctl, converted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(converted.read_bytes())
    ran = qwenctl("verify", copy)
    assert (ran.code, "no digests" in ran.stderr) == (0, True)
    assert json.loads(qwenctl("verify", copy, "--json").stdout)["is_complete"] is False
