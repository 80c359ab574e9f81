"""What a conversion refuses, what it replaces, and what it says when weights or disks are bad."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import plan_conversion
from quant.durable_files import DurableFiles
from quant.errors import (
    BadWeights,
    CheckpointError,
    NotEnoughDisk,
    OutputBusy,
    OutputExists,
    ResumeRefused,
    WriteFailed,
)
from quant.libggml import load_libggml
from quant.pipeline import ConversionProgress, run_plan
from quant.recipe import OUTPUT_TYPES
from quant.verify import verify_file
from tests.quant.conversion_runs import SMALLEST, digest, leftovers, run, small_plan, sync_every_slice
from tests.quant.disk_faults import FailingFiles, SlowFiles
from tests.tiny_checkpoint import encode, tiny_weights, write_checkpoint

STOPPED = {".partial", ".journal"}
_ENCODER = make_row_encoder(load_libggml())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", SMALLEST)


@pytest.fixture
def stopped(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output whose conversion was stopped, in slices that are journalled one by one, after at least two of them."""
    sync_every_slice(monkeypatch)
    out = tmp_path / "m.gguf"

    def stop(progress: ConversionProgress) -> None:
        if progress.n_weights_done > 200_000:  # the embeddings have 82,000
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(small_plan(source), out, _ENCODER, 1, files=SlowFiles(), on_progress=stop)
    assert leftovers(out) == STOPPED
    return out


def test_the_result_verifies(source: Path, tmp_path: Path) -> None:
    run(small_plan(source), tmp_path / "m.gguf")
    assert verify_file(tmp_path / "m.gguf").is_complete


def test_progress_grows(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync_every_slice(monkeypatch)
    seen: list[ConversionProgress] = []
    plan = small_plan(source)
    run_plan(plan, tmp_path / "m.gguf", _ENCODER, 1, files=SlowFiles(), on_progress=seen.append)
    done = [step.n_weights_done for step in seen if step.stage == "convert"]
    assert len(done) > 3
    assert done == sorted(done)
    assert {step.n_weights for step in seen} == {plan.n_weights}


def test_existing_output_stays_unless_forced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_text("precious")
    with pytest.raises(OutputExists):
        run(small_plan(source), out)
    assert (out.read_text(), leftovers(out)) == ("precious", {""})
    run_plan(small_plan(source), out, _ENCODER, 1, force=True)
    assert verify_file(out).is_complete


def test_existing_output_stays_while_its_successor_grows(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_text("precious")
    with pytest.raises(WriteFailed):
        run_plan(small_plan(source), out, _ENCODER, 1, force=True, files=FailingFiles(10))
    assert out.read_text() == "precious"


def test_resumed_work_is_not_done_again(source: Path, stopped: Path) -> None:
    outcome = run(small_plan(source), stopped)
    assert outcome.n_weights > 0
    assert outcome.n_weights_resumed > 0
    assert outcome.n_weights + outcome.n_weights_resumed == small_plan(source).n_weights


def test_another_type_does_not_resume(source: Path, stopped: Path) -> None:
    with pytest.raises(ResumeRefused, match="output type was q8_0, is q4_0") as refused:
        run(small_plan(source, "q4_0"), stopped)
    assert "--restart" in (refused.value.hint or "")
    assert leftovers(stopped) == STOPPED


def _touch_shard(source: Path) -> str:
    shard = next(source.glob("*.safetensors"))
    os.utime(shard, ns=(1, 1))
    return shard.name


def _change_tokenizer(source: Path) -> str:
    path = source / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    return path.name


def _change_config(source: Path) -> str:
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 2048}))
    return path.name


def _add_card(source: Path) -> str:
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    return "README.md is new"


@pytest.mark.parametrize("change", [_touch_shard, _change_tokenizer, _change_config, _add_card])
def test_a_changed_source_does_not_resume(source: Path, stopped: Path, change: Callable[[Path], str]) -> None:
    what = change(source)
    with pytest.raises(ResumeRefused, match=what):
        run(small_plan(source), stopped)


def test_a_source_that_changes_meanwhile(source: Path, tmp_path: Path) -> None:
    plan = small_plan(source)
    what = _touch_shard(source)
    with pytest.raises(CheckpointError, match=f"changed while it was converted: source file {what}"):
        run(plan, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_moved_source_resumes(source: Path, stopped: Path) -> None:
    moved = source.parent / "elsewhere" / source.name
    moved.parent.mkdir()
    source.rename(moved)
    assert run(small_plan(moved), stopped).n_weights_resumed > 0


def test_restart_forgets(source: Path, stopped: Path) -> None:
    outcome = run_plan(small_plan(source, "q4_0"), stopped, _ENCODER, 1, restart=True)
    assert outcome.n_weights_resumed == 0
    assert verify_file(stopped).is_complete


@pytest.mark.parametrize("lost", [".partial", ".journal"])
def test_half_of_the_state_starts_over(source: Path, stopped: Path, lost: str) -> None:
    stopped.with_name(stopped.name + lost).unlink()
    assert run(small_plan(source), stopped).n_weights_resumed == 0
    assert verify_file(stopped).is_complete


def test_a_partial_file_of_another_length_starts_over(source: Path, stopped: Path) -> None:
    os.truncate(stopped.with_name(stopped.name + ".partial"), 4096)
    assert run(small_plan(source), stopped).n_weights_resumed == 0


def test_a_torn_journal_counts_as_far_as_it_is_sound(source: Path, stopped: Path) -> None:
    journal = stopped.with_name(stopped.name + ".journal")
    before = run_resumed_weights(source, stopped)
    os.truncate(journal, journal.stat().st_size - 3)
    assert 0 < run_resumed_weights(source, stopped) < before
    run(small_plan(source), stopped)
    assert verify_file(stopped).is_complete


def run_resumed_weights(source: Path, out: Path) -> int:
    """Return how many weights a run finds done, without letting it do more."""
    seen: list[ConversionProgress] = []

    def stop(progress: ConversionProgress) -> None:
        seen.append(progress)
        raise KeyboardInterrupt

    journal = out.with_name(out.name + ".journal")
    saved = journal.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_plan(small_plan(source), out, _ENCODER, 1, files=SlowFiles(), on_progress=stop)
    journal.write_bytes(saved)
    return seen[0].n_weights_resumed


def test_interrupted_work_is_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.pipeline._POLL_S", 0.001)
    plan = small_plan(source)

    def interrupt(_: ConversionProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "m.gguf", _ENCODER, 2, files=SlowFiles(), on_progress=interrupt)
    assert leftovers(tmp_path / "m.gguf") == STOPPED
    assert run(plan, tmp_path / "m.gguf").n_weights_resumed > 0


def test_two_conversions_to_one_output(source: Path, stopped: Path) -> None:
    def run_another(_: ConversionProgress) -> None:
        with pytest.raises(OutputBusy, match=str(os.getpid())):
            run(small_plan(source), stopped)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(small_plan(source), stopped, _ENCODER, 1, files=SlowFiles(), on_progress=run_another)


class _SmallDisk(DurableFiles):
    def free_bytes(self, folder: Path) -> int:
        return 300 << 20


class _FullDisk(DurableFiles):
    def free_bytes(self, folder: Path) -> int:
        return 256 << 20


def test_a_disk_too_small_is_refused_before_the_first_byte(source: Path, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughDisk) as refused:
        run(small_plan(source), tmp_path / "m.gguf", _FullDisk())
    assert refused.value.free_bytes == 256 << 20
    assert leftovers(tmp_path / "m.gguf") == set()
    run(small_plan(source), tmp_path / "m.gguf", _SmallDisk())


def test_what_is_allocated_already_counts_as_there(source: Path, stopped: Path) -> None:
    run(small_plan(source), stopped, _FullDisk())
    assert verify_file(stopped).is_complete


def test_writes_that_store_a_part_only(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    run(small_plan(source), tmp_path / "whole.gguf")
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[: len(data) // 2 + 1], offset))
    run(small_plan(source), tmp_path / "m.gguf")
    assert digest(tmp_path / "m.gguf") == digest(tmp_path / "whole.gguf")


def test_a_byte_that_changed_on_the_disk_is_found(source: Path, stopped: Path) -> None:
    plan = small_plan(source)
    with stopped.with_name(stopped.name + ".partial").open("r+b") as file:
        file.seek(plan.layout.placed[0].offset_bytes + 100)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(WriteFailed, match=r"token_embd\.weight reads back differently"):
        run(plan, stopped)
    assert not stopped.exists()


@pytest.mark.parametrize(("value", "output_type"), [(np.nan, "q4_k_m"), (-np.inf, "bf16"), (1e6, "f16")])
def test_bad_weights_are_named(source: Path, tmp_path: Path, value: float, output_type: str) -> None:
    plan = plan_conversion(source, OUTPUT_TYPES[output_type])
    name = "model.layers.0.self_attn.o_proj.weight"
    info = next(work.source.info for work in plan.slices if work.source.info.name == name)
    with info.path.open("r+b") as file:
        file.seek(info.offset_bytes + (3 * info.n_columns + 7) * 2)
        file.write(int(np.array([value], np.float32).view(np.uint32)[0] >> 16).to_bytes(2, "little"))
    with pytest.raises(BadWeights, match=rf"{name} holds \S+ at row 3, column 7, .*blk.0.attn_output.weight"):
        run(plan_conversion(source, OUTPUT_TYPES[output_type]), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_other_sources_become_the_weights_they_hold(tmp_path: Path, dtype: str) -> None:
    model = replace(SMALLEST, dtype=dtype)
    out = tmp_path / "m.gguf"
    plan = plan_conversion(write_checkpoint(tmp_path / "source", model), OUTPUT_TYPES["f32"])
    run(plan, out)
    place = next(tensor for tensor in plan.layout.placed if tensor.name == "output.weight")
    wanted = np.frombuffer(
        encode(tiny_weights(model)["lm_head.weight"], model.dtype), f"<f{2 if dtype == 'F16' else 4}"
    )
    got = np.frombuffer(out.read_bytes(), "<f4", place.n_bytes // 4, place.offset_bytes)
    assert np.array_equal(got, wanted.astype(np.float32))


def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        run(small_plan(source), tmp_path / "nowhere" / "m.gguf")
    assert "nowhere" in str(error.value.filename)
