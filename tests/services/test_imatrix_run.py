"""Runs that gather an importance matrix: files, merging, going on after a kill or Ctrl-C, topping up, refusals."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.errors import ImatrixMismatch, OutputBusy, OutputExists, ResumeRefused, WriteFailed
from quant.gguf_read import read_gguf
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_file import read_imatrix, write_imatrix
from quant.second_moments import read_second_moments
from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services import imatrix_reading, imatrix_state
from qwenctl.services.activation_model import ReadingOptions
from qwenctl.services.calibration_text import CalibrationText
from qwenctl.services.imatrix_reading import ReadProgress
from qwenctl.services.imatrix_run import ImatrixRequest, ImatrixResult, gather_imatrix, write_merged
from qwenctl.services.imatrix_state import Progress, RunState, StateFile
from tests.services.imatrix_models import CHUNK_TOKENS, STOCK, write_model

WORDS = "the ring in their house was golden, and the king on another throne heard it sing. "
TEXT = CalibrationText(("words.txt",), ("".join(f"{n}: {WORDS}" for n in range(60)),))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "q8_0")


def gather(model: Path, out: Path, text: CalibrationText = TEXT, **request: Any) -> ImatrixResult:
    on_progress = request.pop("on_progress", lambda _: None)
    options = ReadingOptions(CHUNK_TOKENS, n_threads=1, offload=STOCK)
    return gather_imatrix(read_gguf(model), text, ImatrixRequest(out, **request), options, on_progress=on_progress)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImatrixResult]:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "a.gguf"
    return out, gather(model, out)


def leftovers(out: Path) -> set[str]:
    return {path.name for path in out.parent.iterdir()}


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imatrix_reading, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(imatrix_reading, "_MOST_SAVING_SHARE", 1e9)


def test_the_file_says_what_was_read(whole: tuple[Path, ImatrixResult]) -> None:
    out, result = whole
    found = read_imatrix(out)
    assert found.digest == result.imatrix.digest
    assert (found.datasets, found.chunk_tokens) == (("words.txt",), CHUNK_TOKENS)
    assert found.n_chunks == result.progress.n_chunks > 16
    assert result.progress.n_tokens == CHUNK_TOKENS * found.n_chunks
    assert "output.weight" not in found.entries
    assert len(found.entries) == 3 * 8
    assert [layer.layer for layer in result.coverage] == [0, 1, 2]
    for layer in result.coverage:
        assert sum(layer.tokens) == 2 * result.progress.n_tokens
    assert result.without_statistics == ()
    assert leftovers(out) == {"a.gguf"}


def test_fewer_chunks_are_the_first_ones(model: Path, tmp_path: Path) -> None:
    result = gather(model, tmp_path / "a.gguf", n_chunks=3)
    assert (result.progress.n_chunks, result.imatrix.n_chunks) == (3, 3)
    assert result.imatrix.entries["blk.0.attn_q.weight"].counts.tolist() == [3 * CHUNK_TOKENS]


def test_the_output_matrix_is_measured_when_asked_for(model: Path, tmp_path: Path) -> None:
    result = gather(model, tmp_path / "a.gguf", n_chunks=1, process_output=True)
    assert result.imatrix.entries["output.weight"].counts.tolist() == [CHUNK_TOKENS]


def test_ctrl_c_keeps_what_was_saved_and_the_same_command_goes_on(
    whole: tuple[Path, ImatrixResult], model: Path, tmp_path: Path, save_always: None
) -> None:
    out = tmp_path / "a.gguf"

    def interrupt(progress: ReadProgress) -> None:
        if progress.n_done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, out, on_progress=interrupt)
    assert leftovers(out) == {"a.gguf.partial"}
    seen: list[int] = []
    gather(model, out, on_progress=lambda progress: seen.append(progress.n_done))
    assert seen[0] > 0
    assert out.read_bytes() == whole[0].read_bytes()
    assert leftovers(out) == {"a.gguf"}


def test_a_killed_run_goes_on(whole: tuple[Path, ImatrixResult], model: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "a.gguf", tmp_path / "words.txt"
    text.write_text(str(TEXT.pieces[0]))
    command = [sys.executable, str(Path(__file__).with_name("killable_imatrix.py")), str(model), str(text), str(out)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    while int(child.stdout.readline()) == 0:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert leftovers(out) == {"words.txt", "a.gguf.partial", "a.gguf.partial.lock"}
    seen: list[int] = []
    gather(model, out, on_progress=lambda progress: seen.append(progress.n_done))
    assert seen[0] > 0
    assert out.read_bytes() == whole[0].read_bytes()


def test_another_text_does_not_go_on_with_it(model: Path, tmp_path: Path, save_always: None) -> None:
    out = tmp_path / "a.gguf"
    gather_to_the_first_save(model, out)
    other = CalibrationText(("other.txt",), (WORDS * 9,))
    with pytest.raises(ResumeRefused, match=r"unfinished run that differs: text was \w+, is \w+") as refused:
        gather(model, out, other)
    assert "--restart" in (refused.value.hint or "")
    result = gather(model, out, other, restart=True)
    assert result.imatrix.entries["blk.0.attn_q.weight"].counts.tolist() == [result.progress.n_tokens]


def gather_to_the_first_save(model: Path, out: Path) -> None:
    def stop(progress: ReadProgress) -> None:
        if progress.n_done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, out, on_progress=stop)


def test_a_damaged_state_is_refused(model: Path, tmp_path: Path, save_always: None) -> None:
    out = tmp_path / "a.gguf"
    gather_to_the_first_save(model, out)
    state = out.with_name("a.gguf.partial")
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(ResumeRefused, match="cannot be read"):
        gather(model, out)


def test_files_that_are_there_stay(whole: tuple[Path, ImatrixResult], model: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"
    out.write_bytes(b"before")
    with pytest.raises(OutputExists, match="is there already"):
        gather(model, out)
    assert out.read_bytes() == b"before"
    gather(model, out, force=True, n_chunks=1)
    assert read_imatrix(out).n_chunks == 1
    with pytest.raises(InvalidRequest, match="a file each"):
        gather(model, tmp_path / "b.gguf", hessians=tmp_path / "b.gguf")


def test_two_runs_do_not_write_one_file(model: Path, tmp_path: Path) -> None:
    with StateFile(tmp_path / "a.gguf"), pytest.raises(OutputBusy):
        gather(model, tmp_path / "a.gguf")


def test_a_text_without_enough_tokens(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"the text is \d+ tokens long"):
        gather(model, tmp_path / "a.gguf", CalibrationText(("short.txt",), ("so",)))
    assert leftovers(tmp_path / "a.gguf") == set()
    result = gather(model, tmp_path / "a.gguf", CalibrationText(("short.txt",), ("not a whole chunk " * 2,)))
    assert CHUNK_TOKENS > result.progress.n_tokens >= 16


def test_merging_adds_to_what_is_read(model: Path, whole: tuple[Path, ImatrixResult], tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"
    result = gather(model, out, n_chunks=2, merge=(whole[0],))
    alone = gather(model, tmp_path / "b.gguf", n_chunks=2)
    for name, entry in whole[1].imatrix.entries.items():
        np.testing.assert_allclose(
            result.imatrix.entries[name].sums, entry.sums + alone.imatrix.entries[name].sums, rtol=1e-6
        )
    assert result.imatrix.n_chunks == whole[1].imatrix.n_chunks + 2
    merged = write_merged(ImatrixRequest(tmp_path / "c.gguf", merge=(whole[0], tmp_path / "b.gguf")))
    assert merged.imatrix.digest == result.imatrix.digest == read_imatrix(tmp_path / "c.gguf").digest


def test_what_is_of_another_model_is_not_merged(model: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.gguf"
    entry = ImatrixEntry(np.ones((1, 99), np.float32), np.ones(1, np.float32))
    write_imatrix(Imatrix({"blk.0.attn_q.weight": entry}), foreign)
    with pytest.raises(ImatrixMismatch, match=r"imatrix of another model: blk\.0\.attn_q\.weight"):
        gather(model, tmp_path / "a.gguf", merge=(foreign,))
    assert leftovers(foreign) == {"foreign.gguf"}


def test_second_moments_are_written_and_survive_an_interruption(model: Path, tmp_path: Path, save_always: None) -> None:
    result = gather(model, tmp_path / "a.gguf", hessians=tmp_path / "h.safetensors")
    found = read_second_moments(tmp_path / "h.safetensors")
    for name, entry in result.imatrix.entries.items():
        if name.endswith("ffn_gate_inp.weight"):
            assert name not in found
            continue
        for matrix in range(entry.n_matrices):
            moments = found.moments(name, matrix)
            np.testing.assert_allclose(moments, moments.T, atol=1e-4 * np.abs(moments).max())
            np.testing.assert_allclose(np.diagonal(moments), entry.sums[matrix], rtol=1e-4)
            assert found.count(name, matrix) == entry.counts[matrix]
    assert result.without_moments == ()

    def stop(progress: ReadProgress) -> None:
        if progress.n_done > 0:
            raise KeyboardInterrupt

    again = {"hessians": tmp_path / "again.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        gather(model, tmp_path / "b.gguf", on_progress=stop, **again)
    gather(model, tmp_path / "b.gguf", **again)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "h.safetensors").read_bytes()


def test_second_moments_beyond_the_budget_are_named(model: Path, tmp_path: Path) -> None:
    budget = 5 * 256 * 256 * 4  # five matrices: the inputs of attention, and two wider ones do not fit
    result = gather(model, tmp_path / "a.gguf", n_chunks=1, hessians=tmp_path / "h", hessian_budget_bytes=budget)
    assert sum(result.moments.values()) == 5
    assert result.moments["blk.2.attn_k.weight"] == 1
    assert "blk.0.attn_output.weight" in result.without_moments
    assert "blk.0.ffn_down_exps.weight" in result.without_moments
    assert not any("gate_inp" in name for name in result.without_moments)


def test_the_model_writes_text_for_experts_that_lack_tokens(model: Path, tmp_path: Path) -> None:
    seen: list[ReadProgress] = []
    result = gather(model, tmp_path / "a.gguf", n_chunks=2, top_up=1000, top_up_tokens=1500, on_progress=seen.append)
    writing = [progress for progress in seen if progress.stage == "writing"]
    assert writing[0].n_thin > 0
    assert 1 <= result.progress.n_written_tokens <= 1500
    assert result.imatrix.datasets == ("words.txt", "text written by Source")
    counts = result.imatrix.entries["blk.0.attn_q.weight"].counts
    assert counts.tolist() == [result.progress.n_tokens + result.progress.n_written_tokens]
    assert any(layer.below(1000) for layer in result.coverage)  # the budget was too small, and that is said
    enough = gather(model, tmp_path / "b.gguf", n_chunks=2, top_up=1, top_up_tokens=100_000)
    assert not any(layer.below(1) for layer in enough.coverage)


def test_topping_up_with_offloaded_experts(model: Path, tmp_path: Path) -> None:
    """Generating and reading take turns on one context, through one scheduler."""
    offload = OffloadOptions(mode="on", n_slots=3, layout="plain")
    options = ReadingOptions(CHUNK_TOKENS, n_threads=1, offload=offload, exact=True)
    request = ImatrixRequest(tmp_path / "a.gguf", n_chunks=2, top_up=2000, top_up_tokens=2500)
    found = gather_imatrix(read_gguf(model), TEXT, request, options)
    options = replace(options, offload=STOCK)
    stock = gather_imatrix(read_gguf(model), TEXT, replace(request, out=tmp_path / "b.gguf"), options)
    assert found.progress == stock.progress
    assert found.progress.n_rounds > 1
    for name, entry in stock.imatrix.entries.items():
        np.testing.assert_array_equal(found.imatrix.entries[name].counts, entry.counts)
        np.testing.assert_allclose(found.imatrix.entries[name].sums, entry.sums, rtol=1e-4)


def test_a_full_disk_names_the_file_and_keeps_the_last_state(
    model: Path, tmp_path: Path, save_always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.gguf"
    gather_to_the_first_save(model, out)
    before = out.with_name("a.gguf.partial").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(imatrix_state, "write_gguf_arrays", full)
    with pytest.raises(WriteFailed, match=r"a\.gguf\.partial: No space left on device"):
        gather(model, out)
    assert out.with_name("a.gguf.partial").read_bytes() == before


def test_states_hold_all_bits(tmp_path: Path) -> None:
    arrays = {"a.sums": np.array([[1 / 3, 2 / 3]]), "a.moments": np.ones((1, 2, 2), np.float32) / 3}
    with StateFile(tmp_path / "a") as file:
        file.save(RunState({"model": "m"}, Progress(1, 2, 3, 4), arrays))
        assert leftovers(tmp_path / "a") == {"a.partial", "a.partial.lock"}
        found = file.load({"model": "m"})
    assert found.progress == Progress(1, 2, 3, 4)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
