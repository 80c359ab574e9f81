"""What a pull will do, before the first byte: which files, from where, and whether the disk has room. Looks, no more.

A file is `here` under its final name and known to be the one, or something of its length is (`unchecked`), or it is in
huggingface_hub's cache (`cached`), or an earlier run has begun with it (`begun`), or it is `missing`. The same plan is
printed by --dry-run and executed by pull.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quant.durable_files import DurableFiles
from quant.journal import read_state
from quant.partial_output import DISK_RESERVE_BYTES, held_bytes
from qwenctl.errors import DoesNotFit, InvalidRequest
from qwenctl.services.hub.growing_download import identity, journal_path, partial_path
from qwenctl.services.hub.hf_cache import cached_file
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.resolution import Wanted
from qwenctl.services.hub.slices import SLICE_BYTES
from qwenctl.services.model_origin import readable_origin
from qwenctl.services.split_files import split_names
from qwenctl.services.typed_path import typed_path
from qwenctl.units import format_bytes

State = Literal["here", "unchecked", "cached", "begun", "missing"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the pull. `path` is where it will be, `cached` where huggingface_hub's cache has it."""

    remote: RemoteFile
    path: Path
    state: State
    n_done_bytes: int = 0  # fetched by an earlier run
    n_held_bytes: int = 0  # of the disk that its unfinished file takes up
    cached: Path | None = None

    @property
    def n_bytes_to_fetch(self) -> int:
        """Bytes that have to come from the hub, as far as can be told without reading what is here."""
        return self.remote.n_bytes - self.n_done_bytes if self.state in ("begun", "missing") else 0

    @property
    def n_disk_bytes(self) -> int:
        """Room on the disk that it still needs."""
        return max(0, self.remote.n_bytes - self.n_held_bytes) if self.state in ("begun", "missing") else 0


@dataclass(frozen=True, slots=True)
class PullPlan:
    """All of it. `target` is what the pull's result is called: the first file, or the folder of a checkpoint."""

    wanted: Wanted
    target: Path
    files: tuple[PlannedFile, ...]
    free_bytes: int

    @property
    def n_bytes_to_fetch(self) -> int:
        """Bytes that have to come from the hub."""
        return sum(file.n_bytes_to_fetch for file in self.files)

    @property
    def n_disk_bytes(self) -> int:
        """Room on the disk that is still needed."""
        return sum(file.n_disk_bytes for file in self.files)

    @property
    def is_done(self) -> bool:
        """Whether everything is here."""
        return all(file.state == "here" for file in self.files)

    def refuse_if_too_large(self) -> None:
        """Raise if the disk has no room for what has to be fetched.

        Raises:
            DoesNotFit: with what is needed and what there is.
        """
        needed = self.n_disk_bytes
        if needed and self.free_bytes < needed + DISK_RESERVE_BYTES:
            raise DoesNotFit(
                f"{self.target.parent} has {format_bytes(self.free_bytes)} free; this pull needs "
                f"{format_bytes(needed)}, and {format_bytes(DISK_RESERVE_BYTES)} should be left",
                "free some space, choose a smaller type, or set QWENCTL_MODELS to a folder on another disk",
            )


def plan_files(wanted: Wanted, target: Path, cache_dir: Path, files: DurableFiles | None = None) -> PullPlan:
    """Return the plan of fetching files as they are.

    Args:
        wanted: what; not a conversion.
        target: where the first file, or the folder, goes; the folder above exists.
        cache_dir: of huggingface_hub.
        files: asked for the room on the disk.
    """
    if wanted.kind == "checkpoint":
        remotes = (*wanted.texts, *wanted.files)
        paths = [target / remote.path for remote in remotes]
    else:
        remotes = wanted.files
        paths = [target.parent / name for name in split_names(target.name, len(remotes))]
    origin = readable_origin(paths[0])  # None: everything is looked at again
    known = {file.name: file.sha256 for file in origin.files} if origin else {}
    planned = tuple(_look(remote, path, cache_dir, known) for remote, path in zip(remotes, paths, strict=True))
    free_bytes = (files or DurableFiles()).free_bytes(target.parent)
    return PullPlan(wanted, paths[0] if wanted.kind == "gguf" else target, planned, free_bytes)


def target_folder(out: str | None, wanted: Wanted) -> Path:
    """Return the folder that OUT means for a checkpoint as it is; without OUT, one of the repository's name here.

    Raises:
        InvalidRequest: the folder above does not exist, or a file has the name.
    """
    folder = typed_path(out or wanted.label)
    if folder.is_file():
        raise InvalidRequest(f"{folder} is a file", "a checkpoint is a folder: choose another name")
    if not folder.absolute().parent.is_dir():
        raise InvalidRequest(f"the folder {folder.parent} does not exist", f"mkdir -p {folder.parent}")
    return folder


def _look(remote: RemoteFile, path: Path, cache_dir: Path, known: Mapping[str, str]) -> PlannedFile:
    if path.is_file() and path.stat().st_size == remote.n_bytes:
        is_known = remote.sha256 is not None and known.get(path.name) == remote.sha256
        return PlannedFile(remote, path, "here" if is_known else "unchecked")
    cached = cached_file(cache_dir, remote)
    if cached is not None:
        return PlannedFile(remote, path, "cached", cached=cached)
    n_held_bytes = held_bytes(partial_path(path))
    if not n_held_bytes:
        return PlannedFile(remote, path, "missing")
    return PlannedFile(remote, path, "begun", _n_done_bytes(path, remote), n_held_bytes)


def _n_done_bytes(path: Path, remote: RemoteFile) -> int:
    """Return how many bytes an unfinished download's journal counts as done."""
    try:
        state = read_state(journal_path(path).read_bytes())
    except OSError:
        return 0
    if state.identity != identity(remote):
        return 0
    return min(remote.n_bytes, len(state.done) * SLICE_BYTES)
