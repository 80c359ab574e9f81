"""The checkpoint that comes with the program, converted to 4 bits the first time it is wanted.

The file lies in the cache folder under a name that says which checkpoint and which program version it was made from, so
an update makes a new one and removes the old.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import qwenctl
from quant.errors import OutputBusy
from quant.pipeline import OnProgress
from qwenctl.errors import ModelNotFound, QwenctlError
from qwenctl.services.conversion import convert
from qwenctl.settings import Settings

DEMO_NAME = "demo"
DEMO_TYPE = "q4_k_m"
DEMO_FOLDER = Path(qwenctl.__file__).resolve().parent / "demo"

_BUSY_POLL_S = 0.2
_BUSY_DEADLINE_S = 300.0


def demo_model(
    settings: Settings, notify: Callable[[str], None], on_progress: OnProgress, folder: Path = DEMO_FOLDER
) -> Path:
    """Return the demo's GGUF file, after converting it if it is not there yet.

    Raises:
        ModelNotFound: this installation came without the demo.
        QwenctlError: the cache cannot be written.
        QuantError: the conversion failed.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"the bundled demo is not in {folder}", "name a model: qwenctl run MODEL.gguf, or reinstall"
        )
    target = demo_target(settings, folder)
    if not target.is_file():
        notify(f"converting the bundled demo model to {DEMO_TYPE.upper()}, once …")
        _make_folder(settings.cache_dir)
        _convert_once(folder, target, on_progress)
        _remove_old(target)
    return target


def demo_path(settings: Settings, folder: Path = DEMO_FOLDER) -> Path | None:
    """Return the demo's GGUF file if it has been converted."""
    if not (folder / "config.json").is_file():
        return None
    target = demo_target(settings, folder)
    return target if target.is_file() else None


def demo_target(settings: Settings, folder: Path = DEMO_FOLDER) -> Path:
    """Return where the demo's GGUF file belongs."""
    return settings.cache_dir / f"{DEMO_NAME}-{DEMO_TYPE}-{_key(folder)}.gguf"


def _key(folder: Path) -> str:
    """Return twelve characters that change with the checkpoint's files and the program's version."""
    digest = hashlib.sha256(qwenctl.__version__.encode())
    for path in sorted(folder.iterdir()):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder that can be written"
        raise QwenctlError(f"cannot make the cache folder {folder}: {error.strerror}", hint) from error


def _convert_once(folder: Path, target: Path, on_progress: OnProgress) -> None:
    """Convert, or wait for another process that does so at this moment."""
    end_s = time.monotonic() + _BUSY_DEADLINE_S
    while not target.is_file():
        try:
            convert(folder, target, DEMO_TYPE, restart=True, force=True, on_progress=on_progress)
        except OutputBusy:
            if time.monotonic() > end_s:
                raise
            time.sleep(_BUSY_POLL_S)


def _remove_old(target: Path) -> None:
    """Remove what earlier versions have made, digests and leftovers included."""
    for path in target.parent.glob(f"{DEMO_NAME}-{DEMO_TYPE}-*"):
        if not path.name.startswith(target.name):
            path.unlink(missing_ok=True)
