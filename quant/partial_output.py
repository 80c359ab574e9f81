"""The output of a conversion while it grows, and how it gets its final name.

    OUT.partial                  all bytes at their final places; full length from the start
    OUT.journal                  which slices of it are done (quant/journal.py)
    OUT.digests.json.partial     the companion file, just before the end
    OUT                          appears by one rename, complete

Whatever stops the process leaves either nothing under the final name or the whole file, and a journal to go on with.
`PartialFile` is a file; quant/export_folder.py is a folder of files. Knows nothing of tensors.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from quant.durable_files import DurableFiles
from quant.errors import NotEnoughDisk, OutputExists
from quant.journal import Journal

DISK_RESERVE_BYTES = 256 << 20
"""Left free beside the output: a full disk harms everybody on it."""


@dataclass(frozen=True, slots=True)
class OutputNames:
    """The names of one output. `companion` is a small file that belongs to it (its digests)."""

    final: Path
    companion: Path
    partial_suffix: str = ".partial"

    @property
    def partial(self) -> Path:
        """The growing file."""
        return _with_suffix(self.final, self.partial_suffix)

    @property
    def journal(self) -> Path:
        """What is done of it."""
        return _with_suffix(self.final, ".journal")

    @property
    def companion_partial(self) -> Path:
        """The companion before it gets its name."""
        return _with_suffix(self.companion, self.partial_suffix)


@dataclass(frozen=True, slots=True)
class OutputContents:
    """What the file will be: `identity` names everything that its bytes depend on, `header` is its beginning."""

    identity: Mapping[str, str]
    header: bytes
    total_bytes: int


class PartialOutput(ABC):
    """An open, locked output of one file or several.

    `journal.state.done` maps the slices that an earlier run has left, whole and synced, to their CRC-32. `fds` are the
    growing files. `is_published` is true if an earlier run was killed after the very last step: nothing is left to do.

    Args:
        final: the name that it gets at the end; the folder above exists.
        journal: where what is done is recorded.
        identity: names everything that the bytes depend on.
        total_bytes: of all files.
        files: how to write.
        force: replace an existing output.
        restart: start over, whatever an earlier run has left.

    Raises:
        OutputExists: without `force`.
        OutputBusy: another process writes it.
        ResumeRefused: an earlier run had another identity.
        NotEnoughDisk: the rest of the output does not fit.
        OSError: a file cannot be made or written.
    """

    def __init__(
        self,
        final: Path,
        journal: Path,
        identity: Mapping[str, str],
        total_bytes: int,
        files: DurableFiles,
        *,
        force: bool = False,
        restart: bool = False,
    ) -> None:
        self._final = final
        self._identity = identity
        self._total_bytes = total_bytes
        self._files = files
        self.fds: list[int] = []
        self.is_published = False
        had_journal = journal.exists()
        if self._is_there() and not force and not had_journal:
            raise _exists(final)
        self.journal = Journal(journal, files)
        try:
            self._begin(force=force, restart=restart)
        except BaseException:
            try:
                if not had_journal:  # what was not there before is not left behind
                    self._forget_journal()
            finally:
                self.close()
            raise

    @abstractmethod
    def _create(self) -> None:
        """Make what grows, of full length and with its headers, and open it: `fds`."""

    @abstractmethod
    def _open_existing(self) -> bool:
        """Open what an earlier run has left; False: it is not of full length."""

    @abstractmethod
    def _is_begun(self) -> bool:
        """Tell whether an earlier run has left something that grows."""

    @abstractmethod
    def _discard(self, files: DurableFiles) -> None:
        """Remove what grows, if it is there."""

    @abstractmethod
    def _held_bytes(self) -> int:
        """Bytes on the disk that what an earlier run has left takes up."""

    @abstractmethod
    def _finish_renaming(self) -> None:
        """Do what comes after the rename to the final name."""

    def _is_there(self) -> bool:
        """Tell whether the final name is taken."""
        return self._final.exists()

    def _grow(self, path: Path, header: bytes, n_bytes: int) -> None:
        """Make a file that grows, of full length and with its header, and open it."""
        fd = self._files.open(path)
        self.fds.append(fd)
        self._files.allocate(fd, n_bytes)
        self._files.write_at(fd, memoryview(header), 0)
        self._files.sync_data(fd)

    def _begin(self, *, force: bool, restart: bool) -> None:
        if self._was_renamed():
            self._finish_renaming()
            self.is_published = self.journal.state.identity == self._identity and not restart
            if self.is_published:
                self.journal.remove()
                return
            self.journal.clear()
        if self._is_there() and not force:
            raise _exists(self._final)
        self._check_space()
        if self.journal.state.identity is None or restart or not self._is_begun():
            self._start_over()
            return
        self.journal.refuse_other(self._identity)
        if self._open_existing():
            self.journal.resume()
        else:
            self._start_over()

    def _was_renamed(self) -> bool:
        """Tell whether the output whose completion the journal records has its final name already."""
        inode = self.journal.state.ready_inode
        return inode is not None and self._final.exists() and self._final.stat().st_ino == inode

    def _start_over(self) -> None:
        self.journal.clear()  # first: what it says is about files that are going to be removed
        self._discard(self._files)
        try:
            self._create()
            self.journal.start(self._identity)
        except BaseException:
            with suppress(OSError):
                self._discard(DurableFiles())
            raise

    def _check_space(self) -> None:
        """Refuse if the output does not fit; the blocks of an earlier partial one will be used or freed."""
        folder = self._final.parent
        free = self._files.free_bytes(folder)
        needed = max(0, self._total_bytes - self._held_bytes()) + DISK_RESERVE_BYTES
        if free < needed:
            raise NotEnoughDisk(folder, needed, free)

    def _forget_journal(self) -> None:
        with suppress(OSError):  # the error before this one is to be reported
            self.journal.remove()

    def close(self) -> None:
        """Close the files and give the lock back. What is not published stays, to be resumed."""
        while self.fds:
            os.close(self.fds.pop())
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class PartialFile(PartialOutput):
    """An output of one file, with a companion.

    Args:
        names: where; the folder exists.
        contents: what.
        files, force, restart: see `PartialOutput`.
    """

    def __init__(
        self,
        names: OutputNames,
        contents: OutputContents,
        files: DurableFiles,
        *,
        force: bool = False,
        restart: bool = False,
    ) -> None:
        self._names = names
        self._contents = contents
        identity, n_bytes = contents.identity, contents.total_bytes
        super().__init__(names.final, names.journal, identity, n_bytes, files, force=force, restart=restart)

    @property
    def fd(self) -> int:
        """The growing file."""
        return self.fds[0]

    def _create(self) -> None:
        self._grow(self._names.partial, self._contents.header, self._contents.total_bytes)

    def _open_existing(self) -> bool:
        if self._names.partial.stat().st_size != self._contents.total_bytes:
            return False
        self.fds = [self._files.open(self._names.partial)]
        return True

    def _is_begun(self) -> bool:
        return self._names.partial.exists()

    def _discard(self, files: DurableFiles) -> None:
        files.remove(self._names.partial)

    def _held_bytes(self) -> int:
        return held_bytes(self._names.partial)

    def _finish_renaming(self) -> None:
        rename_companion(self._names, self._files)

    def publish(self, companion: bytes) -> None:
        """Give the file, all of whose slices are done, its final name, and put its companion beside it."""
        self._files.write_whole(self._names.companion_partial, companion)
        self._files.sync_data(self.fd)
        self.journal.record_ready(os.fstat(self.fd).st_ino)
        rename_to_final(self._names, self._files)
        rename_companion(self._names, self._files)
        self.journal.remove()


def held_bytes(path: Path) -> int:
    """Return the bytes on the disk that a file takes up; 0 if it is not there."""
    return getattr(path.stat(), "st_blocks", 0) * 512 if path.exists() else 0


def rename_to_final(names: OutputNames, files: DurableFiles) -> None:
    """Give a complete and synced partial file its final name; `rename_companion` comes next.

    An older output never stands beside the new companion, nor the new one beside an older companion: killed in
    between, the output stands alone.
    """
    files.remove(names.companion)
    files.rename(names.partial, names.final)
    files.sync_folder(names.final.parent)


def rename_companion(names: OutputNames, files: DurableFiles) -> None:
    """Give the companion its final name, if it is still waiting for it."""
    if names.companion_partial.exists():
        files.rename(names.companion_partial, names.companion)
    files.sync_folder(names.final.parent)


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _exists(final: Path) -> OutputExists:
    return OutputExists(f"{final} is there already", "--force replaces it")
