"""What a conversion needs before its weights are fetched: the small files in a folder, and where each shard is.

    .qwen3-8b-q4_k_m.gguf.source/     config.json, tokenizer.json, …; beside the output, until that is complete
                        imatrix/…     a published importance matrix

Shards that huggingface_hub's cache has whole are read there. The conversion itself is remote_conversion.py's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.shown import some
from qwenctl.errors import ModelNotFound
from qwenctl.services.hub.download import DownloadOptions, download
from qwenctl.services.hub.growing_download import journal_path
from qwenctl.services.hub.hashing import holds
from qwenctl.services.hub.hf_cache import cached_file, not_cached
from qwenctl.services.hub.hub_access import Hub
from qwenctl.services.hub.listing import is_gguf, last_part
from qwenctl.services.hub.model_names import FamilyName, parse_name
from qwenctl.services.hub.pull import record_sources
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.resolution import Wanted
from qwenctl.services.model_origin import readable_origin
from qwenctl.services.remote_checkpoint import HubShard, LocalShard, RemoteCheckpoint, Shard
from qwenctl.services.typed_path import typed_path

_IMATRIX_FOLDER = "imatrix"
_IMATRIX_SUFFIXES = (".gguf", ".gguf_file", ".dat", ".imatrix")


@contextmanager
def small_files(target: Path, *, write: bool) -> Iterator[Path]:
    """Yield the folder where the small files wait while the output `target` grows.

    It goes when the output is complete, or was not begun; an interrupted one finds it again. Without `write` it is
    somewhere temporary, so that beside the output nothing appears.
    """
    if not write:
        with tempfile.TemporaryDirectory(prefix="qwenctl-pull-") as name:
            yield Path(name)
        return
    folder = target.with_name(f".{target.name}.source")
    try:
        yield folder
    finally:
        if not journal_path(target).exists():
            DurableFiles().remove_folder(folder)


def open_checkpoint_on_hub(wanted: Wanted, folder: Path, hub: Hub) -> RemoteCheckpoint:
    """Fetch the small files into `folder`, and say where the shards are. No weights are fetched.

    Raises:
        HubUnreachable: no network, and files are missing.
        HubError, DoesNotFit, OSError: see `download`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _fetch_small(wanted.texts, folder, hub)
    shards = {remote.path: _shard(remote, hub) for remote in wanted.files}
    return RemoteCheckpoint(wanted.repository.repo_id, wanted.repository.commit, folder, shards)


def is_converted_already(wanted: Wanted, target: Path, imatrix: str | None) -> bool:
    """Tell whether `target` is what converting these very files would make, by its record."""
    origin = readable_origin(target)
    return (
        origin is not None
        and target.exists()
        and origin.sources == record_sources(wanted.repository)
        and (origin.converted_to, origin.imatrix) == (wanted.quant, imatrix)
    )


def imatrix_file(text: str, hub: Hub, folder: Path) -> Path:
    """Return the importance matrix that `text` names: a file here, a repository that publishes one, or its file there.

    A published one is fetched to the small files in `folder`.

    Raises:
        ModelNotFound: no such file, and none in such a repository.
        InvalidRequest: neither a file here nor a name. HubError: see `download`.
    """
    here = typed_path(text)
    if here.is_file():
        return here
    if here.suffix in _IMATRIX_SUFFIXES and text.count("/") != 2:
        raise ModelNotFound(f"no file {text}", "qwenctl imatrix makes one; or name a repository that publishes one")
    name = parse_name(text)
    if isinstance(name, FamilyName):
        raise ModelNotFound(f"{text} publishes no importance matrix", f"name a repository: {name.entry.gguf}")
    repository = hub.repository(name.repo_id, name.revision)
    paths = [file for file in repository.files if _is_imatrix(file.path) and name.path in (None, file.path)]
    if len(paths) != 1:
        message = f"{repository.repo_id} has {len(paths) or 'no'} importance matrices"
        names = some([f"{repository.repo_id}/{file.path}" for file in paths], 4, " or ")
        raise ModelNotFound(message, f"name one: {names}" if names else None)
    [remote] = paths
    cached = cached_file(hub.cache_dir, remote)
    if cached is not None and holds(cached, remote):
        return cached
    _download([replace(remote, path=f"{_IMATRIX_FOLDER}/{last_part(remote.path)}")], folder, hub)
    return folder / _IMATRIX_FOLDER / last_part(remote.path)


def _is_imatrix(path: str) -> bool:
    name = last_part(path).lower()
    return "imatrix" in name and (is_gguf(name) or name.endswith(_IMATRIX_SUFFIXES))


def _fetch_small(remotes: tuple[RemoteFile, ...], folder: Path, hub: Hub) -> None:
    missing = []
    for remote in remotes:
        cached = cached_file(hub.cache_dir, remote)
        target = folder / remote.path
        if cached is not None and holds(cached, remote):
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(cached, target)
        else:
            missing.append(remote)
    _download(missing, folder, hub)


def _download(remotes: list[RemoteFile], folder: Path, hub: Hub) -> None:
    if not remotes:
        return
    if hub.client is None:
        raise not_cached(remotes)
    download(hub.client, remotes, folder, DownloadOptions(force=True))


def _shard(remote: RemoteFile, hub: Hub) -> Shard:
    cached = cached_file(hub.cache_dir, remote)
    if cached is not None:
        return LocalShard(cached, remote.sha256)
    if hub.client is None:
        raise not_cached([remote])
    return HubShard(hub.client, remote)
