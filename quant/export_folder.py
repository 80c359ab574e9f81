"""The output folder of an export while it grows, and how it gets its final name.

    OUT.partial/                 the shards, of full length from the start; small files just before the end
    OUT.factors                  the scratch file, one number after another
    OUT.journal                  which units are done (quant/journal.py)
    OUT                          appears by one rename, complete; SHA256SUMS in it is what `sha256sum -c` reads
    OUT.replaced/                what had the name before, until the new folder has it

With `force`, only a folder that such an export made is replaced, never one with anything else in it.
Knows nothing of tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.errors import OutputExists
from quant.partial_output import PartialOutput, held_bytes

CHECKSUMS = "SHA256SUMS"
_OURS = (".safetensors", ".json", ".jinja", ".txt")
_OURS_WHOLE = {CHECKSUMS, "LICENSE", "NOTICE"}


@dataclass(frozen=True, slots=True)
class FolderNames:
    """The names of one output folder and of what stands beside it meanwhile."""

    final: Path

    @property
    def partial(self) -> Path:
        """The growing folder."""
        return self._with_suffix(".partial")

    @property
    def scratch(self) -> Path:
        """The scratch file."""
        return self._with_suffix(".factors")

    @property
    def journal(self) -> Path:
        """What is done."""
        return self._with_suffix(".journal")

    @property
    def replaced(self) -> Path:
        """An older output on its way out."""
        return self._with_suffix(".replaced")

    def _with_suffix(self, suffix: str) -> Path:
        return self.final.with_name(self.final.name + suffix)


@dataclass(frozen=True, slots=True)
class GrowingFile:
    """A file of the folder: its name, how it begins and how long it will be."""

    name: str
    header: bytes
    total_bytes: int


@dataclass(frozen=True, slots=True)
class FolderContents:
    """What the folder will be. `identity` names everything that its bytes depend on; `total_bytes` counts all files."""

    identity: Mapping[str, str]
    growing: Sequence[GrowingFile]
    scratch_bytes: int
    total_bytes: int


class PartialFolder(PartialOutput):
    """An output of several files in a folder; `fds` are the growing ones, then the scratch file.

    Args:
        names: where; the folder above exists.
        contents: what.
        files, force, restart: see `PartialOutput`.
    """

    def __init__(
        self,
        names: FolderNames,
        contents: FolderContents,
        files: DurableFiles,
        *,
        force: bool = False,
        restart: bool = False,
    ) -> None:
        self._names = names
        self._contents = contents
        n_bytes = contents.total_bytes + contents.scratch_bytes
        super().__init__(names.final, names.journal, contents.identity, n_bytes, files, force=force, restart=restart)

    @property
    def scratch_fd(self) -> int:
        """The scratch file."""
        return self.fds[-1]

    def _is_there(self) -> bool:
        """Tell whether the name is taken; an empty folder does not count. A folder of something else is refused."""
        final = self._names.final
        if not final.exists():
            return False
        if not final.is_dir():
            raise OutputExists(f"{final} is there already, and not a folder", "name another one")
        names = {path.name for path in final.iterdir()}
        foreign = sorted(name for name in names if name not in _OURS_WHOLE and Path(name).suffix not in _OURS)
        if names and (CHECKSUMS not in names or foreign or any(path.is_dir() for path in final.iterdir())):
            raise OutputExists(f"{final} is a folder with other things in it", "name one that does not exist yet")
        return bool(names)

    def _paths(self) -> list[tuple[Path, int]]:
        """Return what grows, with its full length."""
        shards = [(self._names.partial / file.name, file.total_bytes) for file in self._contents.growing]
        return [*shards, (self._names.scratch, self._contents.scratch_bytes)]

    def _create(self) -> None:
        self._files.make_folder(self._names.partial)
        headers = [file.header for file in self._contents.growing]
        for (path, n_bytes), header in zip(self._paths(), [*headers, b""], strict=True):
            self._grow(path, header, n_bytes)
        self._files.sync_folder(self._names.partial)

    def _open_existing(self) -> bool:
        if any(not path.is_file() or path.stat().st_size != n_bytes for path, n_bytes in self._paths()):
            return False
        self.fds += [self._files.open(path) for path, _ in self._paths()]
        return True

    def _is_begun(self) -> bool:
        return self._names.partial.exists()

    def _discard(self, files: DurableFiles) -> None:
        files.remove_folder(self._names.partial)
        files.remove(self._names.scratch)

    def _held_bytes(self) -> int:
        return sum(held_bytes(path) for path, _ in self._paths())

    def publish(self, small: Mapping[str, bytes]) -> None:
        """Put small files, by name, beside the shards, all of whose units are done; give the folder its name."""
        for name, data in small.items():
            self._files.write_whole(self._names.partial / name, data)
        for fd in self.fds:
            self._files.sync_data(fd)
        self._files.sync_folder(self._names.partial)
        self.journal.record_ready(self._names.partial.stat().st_ino)
        if self._is_there():
            self._files.remove_folder(self._names.replaced)
            self._files.rename(self._names.final, self._names.replaced)
        self._files.rename(self._names.partial, self._names.final)
        self._files.sync_folder(self._names.final.parent)
        self._finish_renaming()
        self.journal.remove()

    def _finish_renaming(self) -> None:
        self._files.remove_folder(self._names.replaced)
        self._files.remove(self._names.scratch)
        self._files.sync_folder(self._names.final.parent)


def refuse_overlap(source: Path, final: Path) -> None:
    """Raise if the source is the output folder or lies in it: it would be replaced.

    Raises:
        OutputExists: so it is.
    """
    source, final = Path(os.path.realpath(source)), Path(os.path.realpath(final))
    if final in (source, *source.parents):
        raise OutputExists(f"{final} holds the source {source}", "name another folder")
