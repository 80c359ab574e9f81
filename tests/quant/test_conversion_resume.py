"""A conversion that was stopped anyhow, anywhere, goes on to the same bytes; nothing incomplete has the final name."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest

from quant.conversion_plan import ConversionPlan
from tests.quant.conversion_runs import SMALLEST, digest, leftovers, run, small_plan, sync_every_slice
from tests.quant.stopped_runs import each_or_some, failing_at_each, killed_at_each, without_power_at_each
from tests.tiny_checkpoint import write_checkpoint

COMPLETE = {"", ".digests.json"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("smallest"), SMALLEST)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of an uninterrupted conversion."""
    out = tmp_path_factory.mktemp("whole") / "m.gguf"
    run(small_plan(source), out)
    return digest(out)


@pytest.fixture
def _slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    sync_every_slice(monkeypatch)


def test_leaves_the_file_and_its_digests(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    outcome = run(small_plan(source), out)
    assert leftovers(out) == COMPLETE
    assert (outcome.n_weights_resumed, outcome.n_weights) == (0, small_plan(source).n_weights)


def test_the_number_of_threads_does_not_show(source: Path, tmp_path: Path, whole: str) -> None:
    run(small_plan(source), tmp_path / "m.gguf", n_threads=5)
    assert digest(tmp_path / "m.gguf") == whole


_each = each_or_some(5)  # a conversion of 17 slices makes about 80 operations


def check_and_resume(plan: ConversionPlan, out: Path, whole: str) -> None:
    assert not out.exists() or digest(out) == whole
    if leftovers(out) != COMPLETE:
        run(plan, out)
    assert (digest(out), leftovers(out)) == (whole, COMPLETE)


@_each
@pytest.mark.usefixtures("_slice_by_slice")
def test_killed(source: Path, tmp_path: Path, whole: str, stride: int) -> None:
    plan = small_plan(source)
    run_with, check = partial(run, plan), partial(check_and_resume, plan, whole=whole)
    assert killed_at_each(tmp_path / "m.gguf", stride, run_with, check) > 40


@_each
@pytest.mark.usefixtures("_slice_by_slice")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_disk_fails(source: Path, tmp_path: Path, whole: str, code: int, stride: int) -> None:
    plan = small_plan(source)
    run_with, check = partial(run, plan), partial(check_and_resume, plan, whole=whole)
    assert failing_at_each(tmp_path / "m.gguf", stride, run_with, check, code) > 40


@_each
@pytest.mark.usefixtures("_slice_by_slice")
def test_the_journal_promises_nothing_that_a_power_failure_takes(
    source: Path, tmp_path: Path, whole: str, stride: int
) -> None:
    plan = small_plan(source)
    run_with, check = partial(run, plan), partial(check_and_resume, plan, whole=whole)
    assert without_power_at_each(tmp_path / "m.gguf", stride, run_with, check) > 40
