"""Disks that fail, processes that are killed and power that is lost, at the Nth operation of a conversion.

Each is a `DurableFiles` whose real operations run until then: the code under test is the program's own.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

from quant.durable_files import DurableFiles


class CountingFiles(DurableFiles):
    """Counts every operation that changes the disk, and calls `before` with its number, from 1, before it happens."""

    def __init__(self) -> None:
        self.n_done = 0

    def before(self) -> None:
        self.n_done += 1

    def open(self, path: Path) -> int:
        self.before()
        return super().open(path)

    def allocate(self, fd: int, n_bytes: int) -> None:
        self.before()
        super().allocate(fd, n_bytes)

    def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
        self.before()
        super().write_at(fd, data, offset_bytes)

    def truncate(self, fd: int, n_bytes: int) -> None:
        self.before()
        super().truncate(fd, n_bytes)

    def sync_data(self, fd: int) -> None:
        self.before()
        super().sync_data(fd)

    def rename(self, source: Path, target: Path) -> None:
        self.before()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self.before()
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self.before()
        super().sync_folder(folder)

    def make_folder(self, path: Path) -> None:
        self.before()
        super().make_folder(path)

    def remove_folder(self, path: Path) -> None:
        self.before()
        super().remove_folder(path)


class FailingFiles(CountingFiles):
    """Fails at operation `at` and at every later one; a write that fails has stored half of its bytes."""

    def __init__(self, at: int, code: int = errno.EIO) -> None:
        super().__init__()
        self.at = at
        self.code = code

    def before(self) -> None:
        super().before()
        if self.n_done >= self.at:
            raise OSError(self.code, os.strerror(self.code))

    def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
        if self.n_done + 1 == self.at:
            DurableFiles.write_at(self, fd, data[: len(data) // 2], offset_bytes)
        super().write_at(fd, data, offset_bytes)


class KilledFiles(CountingFiles):
    """Ends the process by SIGKILL before operation `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def before(self) -> None:
        super().before()
        if self.n_done == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class SlowFiles(DurableFiles):
    """Takes ten milliseconds for a write, so that whoever watches a conversion sees it half done."""

    def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
        time.sleep(0.01)
        super().write_at(fd, data, offset_bytes)


class PowerLostError(BaseException):
    """The machine went dark: nothing may handle this."""


class PowerLossFiles(CountingFiles):
    """Before operation `at` the power fails: of every file only what was last synced is left, and the process ends.

    Contents only. Names that were not synced stay, which is the harder case for a journal beside its file.
    """

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self._paths: dict[int, Path] = {}
        self._synced: dict[Path, bytes] = {}

    def before(self) -> None:
        super().before()
        if self.n_done >= self.at:
            for path, data in self._synced.items():
                if path.exists():
                    path.write_bytes(data)
            raise PowerLostError

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self._paths[fd] = path
        self._synced.setdefault(path, path.read_bytes())
        return fd

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        self._synced[self._paths[fd]] = self._paths[fd].read_bytes()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        if source in self._synced:
            self._synced[target] = self._synced.pop(source)
