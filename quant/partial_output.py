"""The output of a conversion while it grows, and how it gets its final name.

    OUT.partial                  all bytes at their final places; full length from the start
    OUT.journal                  which slices of it are done (quant/journal.py)
    OUT.digests.json.partial     the companion file, just before the end
    OUT                          appears by one rename, complete

Whatever stops the process leaves either nothing under the final name or the whole file, and a journal to go on with.
Knows nothing of tensors.
"""

from __future__ import annotations

import os
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


class PartialOutput:
    """An open, locked output.

    `journal.state.done` maps the slices that an earlier run has left, whole and synced, to their CRC-32. `is_published`
    is true if an earlier run was killed after the very last step: nothing is left to do.

    Args:
        names: where; the folder exists.
        contents: what.
        files: how to write.
        force: replace an existing output.
        restart: start over, whatever an earlier run has left.

    Raises:
        OutputExists: without `force`.
        OutputBusy: another process writes it.
        ResumeRefused: an earlier run had another identity.
        NotEnoughDisk: the rest of the file does not fit.
        OSError: a file cannot be made or written.
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
        self._files = files
        self.fd = -1  # of the partial file
        self.is_published = False
        had_journal = names.journal.exists()
        if names.final.exists() and not force and not had_journal:
            raise _exists(names.final)
        self.journal = Journal(names.journal, files)
        try:
            self._begin(force=force, restart=restart)
        except BaseException:
            try:
                if not had_journal:  # what was not there before is not left behind
                    self._forget_journal()
            finally:
                self.close()
            raise

    def _begin(self, *, force: bool, restart: bool) -> None:
        if self._was_renamed():
            rename_companion(self._names, self._files)
            self.is_published = self.journal.state.identity == self._contents.identity and not restart
            if self.is_published:
                self.journal.remove()
                return
            self.journal.clear()
        if self._names.final.exists() and not force:
            raise _exists(self._names.final)
        self._check_space()
        if self.journal.state.identity is None or restart or not self._names.partial.exists():
            self._start_over()
            return
        self.journal.refuse_other(self._contents.identity)
        if self._names.partial.stat().st_size != self._contents.total_bytes:
            self._start_over()
            return
        self.journal.resume()
        self.fd = self._files.open(self._names.partial)

    def _was_renamed(self) -> bool:
        """Tell whether the file whose completion the journal records has its final name already."""
        final, inode = self._names.final, self.journal.state.ready_inode
        return inode is not None and final.exists() and final.stat().st_ino == inode

    def _start_over(self) -> None:
        self.journal.clear()  # first: what it says is about a file that is going to be removed
        self._files.remove(self._names.partial)
        self.fd = self._files.open(self._names.partial)
        try:
            self._files.allocate(self.fd, self._contents.total_bytes)
            self._files.write_at(self.fd, memoryview(self._contents.header), 0)
            self._files.sync_data(self.fd)
            self.journal.start(self._contents.identity)
        except BaseException:
            with suppress(OSError):
                self._names.partial.unlink(missing_ok=True)
            raise

    def _check_space(self) -> None:
        """Refuse if the file does not fit; the blocks of an earlier partial file will be used or freed."""
        folder, partial = self._names.final.parent, self._names.partial
        held_bytes = getattr(partial.stat(), "st_blocks", 0) * 512 if partial.exists() else 0
        free = self._files.free_bytes(folder)
        needed = max(0, self._contents.total_bytes - held_bytes) + DISK_RESERVE_BYTES
        if free < needed:
            raise NotEnoughDisk(folder, needed, free)

    def _forget_journal(self) -> None:
        with suppress(OSError):  # the error before this one is to be reported
            self.journal.remove()

    def publish(self, companion: bytes) -> None:
        """Give the file, all of whose slices are done, its final name, and put its companion beside it."""
        self._files.write_whole(self._names.companion_partial, companion)
        self._files.sync_data(self.fd)
        self.journal.record_ready(os.fstat(self.fd).st_ino)
        rename_to_final(self._names, self._files)
        rename_companion(self._names, self._files)
        self.journal.remove()

    def close(self) -> None:
        """Close the files and give the lock back. What is not published stays, to be resumed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


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
