"""Where the bundled demo lies: the checkpoint in the package, and the 4-bit file made from it in the cache folder.

The file's name says which checkpoint and which program version it was made from. Making it is demo_conversion.py's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import qwenctl
from qwenctl.errors import ModelNotFound
from qwenctl.settings import Settings

DEMO_NAME = "demo"
DEMO_TYPE = "q4_k_m"
DEMO_FOLDER = Path(qwenctl.__file__).resolve().parent / "demo"


def demo_target(settings: Settings, folder: Path = DEMO_FOLDER) -> Path:
    """Return where the demo's GGUF file is, or will be.

    Raises:
        ModelNotFound: this installation came without the demo.
    """
    if not (folder / "config.json").is_file():
        hint = "name a model: qwenctl run MODEL.gguf, or reinstall"
        raise ModelNotFound(f"the bundled demo is not in {folder}", hint)
    return settings.cache_dir / f"{DEMO_NAME}-{DEMO_TYPE}-{_key(folder)}.gguf"


def converted_demo(settings: Settings, folder: Path = DEMO_FOLDER) -> Path | None:
    """Return the demo's GGUF file; None if it has not been made yet, or there is no demo."""
    try:
        target = demo_target(settings, folder)
    except ModelNotFound:
        return None
    return target if target.is_file() else None


def _key(folder: Path) -> str:
    """Return twelve characters that change with the checkpoint's files and the program's version."""
    digest = hashlib.sha256(qwenctl.__version__.encode())
    for path in sorted(folder.iterdir()):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
