"""A conversion that was stopped anyhow, anywhere, goes on to the same bytes; nothing incomplete has the final name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant.conversion_plan import ConversionPlan
from quant.errors import NotEnoughDisk, WriteFailed
from tests.quant.conversion_runs import SMALLEST, digest, leftovers, run, small_plan, sync_every_slice
from tests.quant.disk_faults import FailingFiles, KilledFiles, PowerLossFiles, PowerLostError
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


# A conversion of 17 slices makes about 80 operations: fast tests stop it at each fifth, slow ones at each.
_each = pytest.mark.parametrize(
    "stride", [pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)


def stops(folder: Path, stride: int) -> Iterator[tuple[int, Path]]:
    """Yield operations to stop at, each with a fresh output. The caller breaks when one was not reached any more."""
    for at in range(1, 1000, stride):
        out = folder / f"{at}" / "m.gguf"
        out.parent.mkdir()
        yield at, out


def check_and_resume(plan: ConversionPlan, out: Path, whole: str) -> None:
    assert not out.exists() or digest(out) == whole
    if leftovers(out) != COMPLETE:
        run(plan, out)
    assert (digest(out), leftovers(out)) == (whole, COMPLETE)


@_each
@pytest.mark.usefixtures("_slice_by_slice")
def test_killed(source: Path, tmp_path: Path, whole: str, stride: int) -> None:
    plan = small_plan(source)
    for at, out in stops(tmp_path, stride):
        child = os.fork()
        if child == 0:
            run(plan, out, KilledFiles(at))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        check_and_resume(plan, out, whole)
    assert at > 40


@_each
@pytest.mark.usefixtures("_slice_by_slice")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_disk_fails(source: Path, tmp_path: Path, whole: str, code: int, stride: int) -> None:
    plan = small_plan(source)
    for at, out in stops(tmp_path, stride):
        try:
            run(plan, out, FailingFiles(at, code))
            break
        except NotEnoughDisk:
            expected = errno.ENOSPC
        except WriteFailed:
            expected = errno.EIO
        assert code == expected
        check_and_resume(plan, out, whole)
    assert at > 40


@_each
@pytest.mark.usefixtures("_slice_by_slice")
def test_the_journal_promises_nothing_that_a_power_failure_takes(
    source: Path, tmp_path: Path, whole: str, stride: int
) -> None:
    plan = small_plan(source)
    for at, out in stops(tmp_path, stride):
        try:
            run(plan, out, PowerLossFiles(at))
        except PowerLostError:
            check_and_resume(plan, out, whole)
        else:
            break
    assert at > 40
