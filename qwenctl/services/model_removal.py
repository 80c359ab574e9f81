"""Take models off the disk, and what interrupted and outdated work has left beside them.

Only what is ours is touched: a model is its files, its digests and its record in the models folder. A link into the
Hugging Face cache is removed as a link; what it leads to is huggingface_hub's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quant.digests import digest_path
from quant.durable_files import DurableFiles, try_lock
from qwenctl.errors import InvalidRequest
from qwenctl.services.default_model import read_default
from qwenctl.services.demo_file import DEMO_NAME, DEMO_TYPE, converted_demo
from qwenctl.services.live_process import is_alive
from qwenctl.services.model_origin import origin_path
from qwenctl.services.model_store import find_model, model_not_found
from qwenctl.services.prefix_cache.options import FOLDER_NAME
from qwenctl.services.split_files import model_files
from qwenctl.services.step_record import FOLDER_NAME as STEP_FOLDER
from qwenctl.settings import Settings

_UNFINISHED = ("*.partial", "*.journal", "*.new", ".*.source")
_COMPANIONS = (".digests.json", ".origin.json")


@dataclass(frozen=True, slots=True)
class Removable:
    """A file or folder that can go. `freed_bytes` is what the disk gets back; of a link that is nothing."""

    path: Path
    freed_bytes: int
    why: str


def files_of(name: str, settings: Settings) -> tuple[Removable, ...]:
    """Return everything that belongs to the model `name` in the models folder.

    Raises:
        ModelNotFound: no such model.
        InvalidRequest: a file elsewhere, or the demo.
    """
    if name == DEMO_NAME and not (settings.models_dir / f"{name}.gguf").exists():
        raise InvalidRequest("the demo comes with the program", "it is made again when it is wanted")
    link = settings.models_dir / f"{name}.gguf"
    path = link if Path(name).name == name and link.is_symlink() else find_model(name, settings)
    if path is None:
        raise model_not_found(name, settings)
    if path.absolute().parent != settings.models_dir.absolute():
        raise InvalidRequest(
            f"{path} is not among the models in {settings.models_dir}", f"remove it yourself: rm {path}"
        )
    parts = model_files(path)
    beside = [origin_path(path), *(digest_path(part) for part in parts)]
    return tuple(
        Removable(file, _freed_bytes(file), f"of {name}")
        for file in (*parts, *beside)
        if file.exists() or file.is_symlink()
    )


def find_leftovers(settings: Settings) -> tuple[Removable, ...]:
    """Return what interrupted and outdated work has left. What a running process works on is not among it."""
    return (*_unfinished(settings.models_dir), *_orphans(settings.models_dir), *_outdated(settings))


def remove(removables: tuple[Removable, ...]) -> None:
    """Remove all of them.

    Raises:
        OSError: one cannot be removed; those before it are gone.
    """
    files = DurableFiles()
    for removable in removables:
        if removable.path.is_dir() and not removable.path.is_symlink():
            files.remove_folder(removable.path)
        else:
            files.remove(removable.path)


def default_among(removables: tuple[Removable, ...], settings: Settings) -> str | None:
    """Return the default model's name if it is among what is going to be removed, by whatever name it was chosen."""
    name = read_default(settings)
    path = None if name is None else find_model(name, settings)
    return name if path is not None and any(removable.path == path for removable in removables) else None


def _unfinished(folder: Path) -> Iterator[Removable]:
    for pattern in _UNFINISHED:
        for path in sorted(folder.glob(pattern)):
            if not _is_busy(path):
                yield Removable(path, _freed_bytes(path), "unfinished: the same command would resume it")


def _is_busy(path: Path) -> bool:
    """Tell whether a process is at work on an unfinished file or folder: it holds the lock of a journal, or lives."""
    if path.suffix == ".new":
        return is_alive(path.stem.rpartition(".")[2])
    final = path.name.removeprefix(".").rpartition(".")[0].removesuffix(".digests.json")
    journals = [path.with_name(f"{final}.journal"), *(path.glob("*.journal") if path.is_dir() else ())]
    return any(_is_locked(journal) for journal in journals)


def _is_locked(journal: Path) -> bool:
    try:
        fd = os.open(journal, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def _orphans(folder: Path) -> Iterator[Removable]:
    """Yield records and digests without their model, and links that lead nowhere."""
    for suffix in _COMPANIONS:
        for path in sorted(folder.glob(f"*{suffix}")):
            model = path.with_name(path.name.removesuffix(suffix))
            if not model.exists() and not model.with_name(f"{model.name}.journal").exists():
                yield Removable(path, _freed_bytes(path), f"beside no {model.name}")
    for path in sorted(folder.glob("*.gguf")):
        if path.is_symlink() and not path.exists():
            yield Removable(path, 0, "a link into the Hugging Face cache, whose file is gone")


def _outdated(settings: Settings) -> Iterator[Removable]:
    """Yield what the cache folder holds for nothing: older demos, records of lost files."""
    cache, demo = settings.cache_dir, converted_demo(settings)
    for path in sorted(cache.glob(f"{DEMO_NAME}-{DEMO_TYPE}-*")):
        if demo is None or not path.name.startswith(demo.name):
            yield Removable(path, _freed_bytes(path), "the demo of an older version")
    for path in sorted((cache / FOLDER_NAME).glob("*/*.new")):
        if not is_alive(path.name.split(".")[1]):
            yield Removable(path, _freed_bytes(path), "a prompt that a process did not write to its end")
    for path in sorted([*(cache / "loadable").glob("*.json"), *(cache / STEP_FOLDER).glob("*.json")]):
        if not _names_files_that_exist(path):
            yield Removable(path, _freed_bytes(path), "about a model that is gone")


def _names_files_that_exist(record: Path) -> bool:
    """Tell whether a record of load_record.py or step_record.py is about files that are there."""
    try:
        return all(Path(file[0]).exists() for file in json.loads(record.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _freed_bytes(path: Path) -> int:
    """Return what removing `path` gives back to the disk."""
    if path.is_symlink() or not path.exists():
        return 0
    if path.is_dir():
        return sum(_freed_bytes(inner) for inner in path.rglob("*") if not inner.is_dir())
    status = path.stat()
    return status.st_blocks * 512 if status.st_nlink == 1 else 0
