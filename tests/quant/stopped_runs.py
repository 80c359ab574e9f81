"""Work that is stopped at one of its operations on the disk, then at a later one, and so on until it is not reached.

Each function returns the last operation that it tried to stop at. Knows nothing of what the work is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quant.durable_files import DurableFiles
from quant.errors import NotEnoughDisk, WriteFailed
from tests.quant.disk_faults import FailingFiles, KilledFiles, PowerLossFiles, PowerLostError

Run = Callable[[Path, DurableFiles], object]
"""Does the work: where its output goes, and how it is written."""

Check = Callable[[Path], None]
"""Looks at what a stop has left of an output, and goes on with it."""


def each_or_some(some: int) -> pytest.MarkDecorator:
    """Parametrize `stride`: fast tests stop at each `some`th operation, slow ones at each."""
    strides = [pytest.param(some, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
    return pytest.mark.parametrize("stride", strides)


def stops(out: Path, stride: int) -> Iterator[tuple[int, Path]]:
    """Yield operations to stop at, each with a fresh output. The caller breaks when one was not reached any more."""
    for at in range(1, 1000, stride):
        fresh = out.parent / f"{at}" / out.name
        fresh.parent.mkdir()
        yield at, fresh


def in_child(work: Callable[[], object]) -> int:
    """Do the work in a forked process; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_each(out: Path, stride: int, run: Run, check: Check) -> int:
    """Kill the process."""
    at = 0
    for at, fresh in stops(out, stride):
        if in_child(lambda at=at, fresh=fresh: run(fresh, KilledFiles(at))) == 0:
            break
        check(fresh)
    return at


def failing_at_each(out: Path, stride: int, run: Run, check: Check, code: int) -> int:
    """Let the operation fail with ENOSPC or EIO, which the work reports as what it is."""
    at = 0
    for at, fresh in stops(out, stride):
        try:
            run(fresh, FailingFiles(at, code))
            break
        except NotEnoughDisk:
            expected = errno.ENOSPC
        except WriteFailed:
            expected = errno.EIO
        if code != expected:
            pytest.fail(f"{errno.errorcode[code]} was reported as {errno.errorcode[expected]}")
        check(fresh)
    return at


def without_power_at_each(out: Path, stride: int, run: Run, check: Check) -> int:
    """Lose what was written and not synced."""
    at = 0
    for at, fresh in stops(out, stride):
        try:
            run(fresh, PowerLossFiles(at))
        except PowerLostError:
            check(fresh)
        else:
            break
    return at
