"""Files that only their owner may read: what somebody typed. Complete under their own name, or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from quant.durable_files import DurableFiles
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.typed_path import is_there


def create_private(path: Path, text: str) -> None:
    """Write `text` to a new file, as UTF-8.

    Raises:
        InvalidRequest: there is something of that name.
        QwenctlError: the disk or the folder refuses.
    """
    if is_there(path):
        raise InvalidRequest(f"{path} is there already", "name another file, or remove it first")
    try:
        replace_private(path, text.encode())
    except OSError as error:
        raise QwenctlError(f"cannot write {path}: {error.strerror}", "name a folder that you may write to") from error


def replace_private(path: Path, data: bytes) -> None:
    """Put `data` under `path`: written beside it, synced, renamed.

    Raises:
        OSError: the disk or the folder refuses; nothing is left behind.
    """
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")  # with mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    DurableFiles().sync_folder(path.parent)
