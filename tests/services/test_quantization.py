"""GGUF to GGUF in a child process: the file, what is refused, and what a dead child leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.conversion_plan import plan_conversion
from quant.errors import GgufError, NotEnoughDisk, OutputBusy, OutputExists
from quant.gguf_read import read_gguf
from quant.recipe import OUTPUT_TYPES
from quant.verify import verify_file
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services import quantization
from qwenctl.services.quantization import QuantizationProgress, quantize
from qwenctl.services.quantize_child import run_worker
from tests.quant.conversion_runs import SMALLEST, leftovers, run
from tests.tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    source = write_checkpoint(folder / "source", SMALLEST)
    run(plan_conversion(source, OUTPUT_TYPES["bf16"]), folder / "bf16.gguf")
    return folder / "bf16.gguf"


@pytest.fixture(scope="module")
def q8(bf16: Path) -> Path:
    out = bf16.with_name("q8.gguf")
    quantize(bf16, out, "q8_0")
    return out


def test_writes_a_whole_file_with_digests(bf16: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    seen: list[QuantizationProgress] = []
    result = quantize(bf16, out, "Q4_0", on_progress=seen.append)
    assert (result.output_type, result.n_bytes) == ("q4_0", out.stat().st_size)
    assert leftovers(out) == {"", ".digests.json"}
    assert verify_file(out).is_complete
    assert [step.n_weights_done for step in seen] == sorted(step.n_weights_done for step in seen)
    assert {step.tensor for step in seen} == set(read_gguf(out).tensors)
    assert 0 < seen[-1].n_weights_done < seen[-1].n_weights == result.n_weights


def test_a_source_aligned_to_pages_gives_a_readable_file(bf16: Path, q8: Path) -> None:
    assert (read_gguf(bf16).alignment, read_gguf(q8).alignment) == (4096, 32)


def test_quantizing_twice_must_be_asked_for(q8: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"quantized already .*Q8_0") as refused:
        quantize(q8, tmp_path / "m.gguf", "q4_0")
    assert "--allow-requantize" in (refused.value.hint or "")
    result = quantize(q8, tmp_path / "m.gguf", "q4_0", allow_requantize=True)
    assert result.quantized_before == ("Q8_0",)


def test_never_in_place(bf16: Path) -> None:
    with pytest.raises(InvalidRequest, match="in place"):
        quantize(bf16, bf16, "q4_0", force=True)


def test_existing_output_stays_unless_forced(bf16: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_text("precious")
    with pytest.raises(OutputExists):
        quantize(bf16, out, "q8_0")
    assert out.read_text() == "precious"
    quantize(bf16, out, "q8_0", force=True)
    assert verify_file(out).is_complete


def test_a_damaged_source_is_refused_before_llama_sees_it(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(GgufError):
        quantize(tmp_path / "bad.gguf", tmp_path / "m.gguf", "q8_0")


def test_two_at_once(bf16: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"

    def start_another(_: QuantizationProgress) -> None:
        with pytest.raises(OutputBusy):
            quantize(bf16, out, "q8_0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(bf16, out, "q8_0", on_progress=start_another)
    assert leftovers(out) == set()


def test_a_disk_too_small(bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "DISK_RESERVE_BYTES", 1 << 60)
    with pytest.raises(NotEnoughDisk):
        quantize(bf16, tmp_path / "m.gguf", "q8_0")
    assert leftovers(tmp_path / "m.gguf") == set()


def test_what_llama_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a GGUF")
    request = {
        "source": str(tmp_path / "bad.gguf"),
        "out": str(tmp_path / "m.gguf"),
        "ftype_id": 7,
        "n_threads": 1,
        "alignment": 32,
        "allow_requantize": False,
        "dry_run": False,
    }
    with pytest.raises(QwenctlError, match=r"llama\.cpp cannot quantize this file: .*failed to load") as refused:
        run_worker(request, lambda _: None)
    assert "\n" not in refused.value.message


def test_a_child_that_dies_is_reported() -> None:
    with pytest.raises(QwenctlError, match=r"crashed while it quantized .exit status 1.: TypeError"):
        run_worker({"unknown": 1}, lambda _: None)
