"""Convert the bundled demo to 4 bits, the first time it is wanted. An update makes a new file and removes the old."""

from __future__ import annotations

import time
from pathlib import Path

from quant.errors import OutputBusy
from quant.pipeline import OnProgress
from qwenctl.errors import QwenctlError
from qwenctl.services.conversion import convert
from qwenctl.services.demo_file import DEMO_FOLDER, DEMO_NAME, DEMO_TYPE, demo_target
from qwenctl.settings import Settings

_BUSY_POLL_S = 0.2
_BUSY_DEADLINE_S = 300.0


def convert_demo(settings: Settings, on_progress: OnProgress, folder: Path = DEMO_FOLDER) -> Path:
    """Make the demo's GGUF file, or wait for another process that does so at this moment; return its path.

    Raises:
        ModelNotFound: this installation came without the demo.
        QwenctlError: the cache cannot be written.
        QuantError: the conversion failed.
    """
    target = demo_target(settings, folder)
    _make_folder(settings.cache_dir)
    _convert_once(folder, target, on_progress)
    _remove_old(target)
    return target


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
