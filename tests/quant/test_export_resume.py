"""An export that was stopped anyhow, anywhere, goes on to the same bytes; nothing incomplete has the final name."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest

from quant import pipeline
from quant.errors import NotEnoughDisk, WriteFailed
from quant.export_plan import ExportPlan
from quant.pipeline import ConversionProgress
from tests.quant.disk_faults import FailingFiles, KilledFiles, SlowFiles
from tests.quant.export_runs import LEFT, SMALLEST, beside, digest, run, small_plan, statistics
from tests.quant.stopped_runs import (
    each_or_some,
    failing_at_each,
    in_child,
    killed_at_each,
    stops,
    without_power_at_each,
)
from tests.tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ExportPlan:
    source = write_checkpoint(tmp_path_factory.mktemp("smallest"), SMALLEST)
    return small_plan(source, imatrix=statistics(small_plan(source))[0])


@pytest.fixture(scope="module")
def whole(plan: ExportPlan, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of an uninterrupted export."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(plan, out)
    return digest(out)


@pytest.fixture(autouse=True)
def _unit_by_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal each unit by itself, as with units of a large model."""
    monkeypatch.setattr(pipeline, "SYNC_BYTES", 0)
    monkeypatch.setattr(pipeline, "_POLL_S", 0.0)


_each = each_or_some(11)  # an export of 27 units makes about 150 operations


def check_and_resume(plan: ExportPlan, out: Path, whole: str, *, force: bool = False) -> None:
    is_whole = out.exists() and digest(out) == whole
    assert not out.exists() or is_whole or force
    if not is_whole or beside(out):
        run(plan, out, force=force)
    assert (digest(out), beside(out)) == (whole, set())


@_each
def test_killed(plan: ExportPlan, tmp_path: Path, whole: str, stride: int) -> None:
    run_with, check = partial(run, plan), partial(check_and_resume, plan, whole=whole)
    assert killed_at_each(tmp_path / "out", stride, run_with, check) > 80


@_each
def test_killed_while_it_replaces_another(plan: ExportPlan, tmp_path: Path, whole: str, stride: int) -> None:
    """The old folder or the new one has the name, or neither for a moment; the old one is never mixed with the new."""
    old = small_plan(plan.source, "gptq")
    for at, out in stops(tmp_path / "out", stride):
        run(old, out)
        before = digest(out)
        if in_child(lambda at=at, out=out: run(plan, out, KilledFiles(at), force=True)) == 0:
            break
        assert not out.exists() or digest(out) in (before, whole)
        check_and_resume(plan, out, whole, force=True)
    assert at > 80


@_each
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_disk_fails(plan: ExportPlan, tmp_path: Path, whole: str, code: int, stride: int) -> None:
    run_with, check = partial(run, plan), partial(check_and_resume, plan, whole=whole)
    assert failing_at_each(tmp_path / "out", stride, run_with, check, code) > 80


@_each
def test_the_journal_promises_nothing_that_a_power_failure_takes(
    plan: ExportPlan, tmp_path: Path, whole: str, stride: int
) -> None:
    run_with, check = partial(run, plan), partial(check_and_resume, plan, whole=whole)
    assert without_power_at_each(tmp_path / "out", stride, run_with, check) > 80


def test_what_an_earlier_run_did_is_not_done_again(plan: ExportPlan, tmp_path: Path, whole: str) -> None:
    def stop(progress: ConversionProgress) -> None:
        if progress.stage == "convert" and progress.n_weights_done > 0:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(plan, out, SlowFiles(), on_progress=stop)
    assert beside(out) == LEFT
    outcome = run(plan, out)
    assert 0 < outcome.conversion.n_weights_resumed < plan.n_weights
    assert outcome.conversion.n_weights + outcome.conversion.n_weights_resumed == plan.n_weights
    assert digest(out) == whole


def test_no_room_for_the_output(plan: ExportPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.partial_output.DISK_RESERVE_BYTES", 1 << 60)
    with pytest.raises(NotEnoughDisk):
        run(plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["partial", "factors", "shard", "journal"])
def test_a_part_that_is_lost_is_made_again(plan: ExportPlan, tmp_path: Path, whole: str, lost: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(WriteFailed):
        run(plan, out, FailingFiles(60))
    if lost == "shard":
        next((tmp_path / "out.partial").glob("*.safetensors")).unlink()
    elif lost == "partial":
        (tmp_path / "out.partial").rename(tmp_path / "elsewhere")
    else:
        (tmp_path / f"out.{lost}").unlink()
    run(plan, out)
    assert (digest(out), beside(out)) == (whole, set())
