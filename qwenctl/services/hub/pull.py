"""Carry out the plan of a pull: link what huggingface_hub's cache has, fetch the rest, write down where it came from.

Every byte is held against the hub's hash before it is used: of fetched files on the way, of the cache's once, before
they are linked. Linked, not copied: the cache stays huggingface_hub's, and one copy is enough.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from quant.digests import digest_path
from quant.durable_files import DurableFiles
from quant.errors import OutputExists
from qwenctl.services.hub.download import DownloadOptions, download
from qwenctl.services.hub.download_progress import DownloadProgress
from qwenctl.services.hub.hashing import OnBytes, holds
from qwenctl.services.hub.hf_cache import not_cached
from qwenctl.services.hub.listing import Repository
from qwenctl.services.hub.pull_plan import PlannedFile, PullPlan
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.model_origin import Origin, OriginFile, write_origin


@dataclass(frozen=True, slots=True)
class PullWatch:
    """Who is told what goes on: bytes fetched, bytes of the cache checked, and what deserves a warning."""

    on_progress: Callable[[DownloadProgress], None] = lambda _: None
    on_checked: OnBytes = lambda _: None
    on_warning: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class PullResult:
    """A finished pull, in figures."""

    path: Path
    n_files: int
    n_bytes: int
    n_fetched_bytes: int  # by this run
    n_linked_bytes: int  # from huggingface_hub's cache
    seconds: float


def pull_files(
    plan: PullPlan, client: RangeClient | None, asked: str, options: DownloadOptions, watch: PullWatch
) -> PullResult:
    """Get the files of the plan, each complete under its name or not there at all.

    Args:
        plan: what to do.
        client: connections; None without a network: then everything must be here or in the cache.
        asked: what the user typed, for the record.
        options: of the download.
        watch: is told.

    Raises:
        HubUnreachable: no network, and files are missing.
        OutputExists: something else has a file's name.
        HubError, DoesNotFit, OSError: see `download`.
    """
    started_s = time.monotonic()
    plan.refuse_if_too_large()
    linked = {file.path for file in plan.files if file.state == "cached" and _link(file, options, watch)}
    known = () if options.force else {file.path for file in plan.files if file.state == "here"}
    rest = [file for file in plan.files if file.path not in linked and file.path not in known]
    n_fetched_bytes = _fetch(plan, rest, client, options, watch)
    if plan.wanted.kind == "gguf":
        digest_path(plan.target).unlink(missing_ok=True)  # of a conversion that had the name before
        files = tuple(_record(file.remote, file.path.name) for file in plan.files)
        write_origin(plan.target, make_origin(asked, plan.wanted.repository, files=files))
    return PullResult(
        plan.target,
        len(plan.files),
        sum(file.remote.n_bytes for file in plan.files),
        n_fetched_bytes,
        sum(file.remote.n_bytes for file in plan.files if file.path in linked),
        time.monotonic() - started_s,
    )


def make_origin(
    asked: str,
    repository: Repository,
    *,
    files: tuple[OriginFile, ...] = (),
    sources: tuple[OriginFile, ...] = (),
    converted_to: str | None = None,
    imatrix: str | None = None,
) -> Origin:
    """Return the record of what was pulled now."""
    return Origin(
        asked=asked,
        hub=repository.endpoint,
        repo=repository.repo_id,
        revision=repository.revision,
        commit=repository.commit,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        license=repository.license_name,
        license_link=repository.license_link,
        base_models=repository.base_models,
        converted_to=converted_to,
        imatrix=imatrix,
        files=files,
        sources=sources,
    )


def record_sources(repository: Repository) -> tuple[OriginFile, ...]:
    """Return the weights of a checkpoint for the record of what was converted from them."""
    return tuple(_record(remote, remote.path) for remote in repository.shards)


def link_whole(target: Path, path: Path) -> None:
    """Make `path` a symbolic link to `target`, in one step.

    Raises:
        OSError: the file system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    DurableFiles().rename(temporary, path)
    DurableFiles().sync_folder(path.parent)


def _link(file: PlannedFile, options: DownloadOptions, watch: PullWatch) -> bool:
    """Link a file of the cache, if it is what the hub names; a damaged one is left alone, and fetched."""
    if file.cached is None:
        return False
    if not holds(file.cached, file.remote, watch.on_checked):
        watch.on_warning(f"{file.cached} is damaged, and not used; the file is fetched anew")
        return False
    if file.path.exists() and not options.force:
        raise OutputExists(f"{file.path} is there already, and is another file", "--force replaces it")
    link_whole(file.cached, file.path)
    return True


def _fetch(
    plan: PullPlan,
    files: list[PlannedFile],
    client: RangeClient | None,
    options: DownloadOptions,
    watch: PullWatch,
) -> int:
    """Fetch files under the names that the plan gives them; return the bytes that came."""
    if not files:
        return 0
    if client is None:
        raise not_cached([file.remote for file in files])
    folder = plan.target if plan.wanted.kind == "checkpoint" else plan.target.parent
    remotes = [replace(file.remote, path=file.path.relative_to(folder).as_posix()) for file in files]
    done = download(client, remotes, folder, options, watch.on_progress)
    return sum(file.n_fetched_bytes for file in done)


def _record(remote: RemoteFile, name: str) -> OriginFile:
    return OriginFile(name, remote.n_bytes, remote.sha256 or "", remote.path)
