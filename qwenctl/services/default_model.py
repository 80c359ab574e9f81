"""Which model is meant where none is named: a name in a small file, or nothing for the bundled demo."""

from __future__ import annotations

from quant.durable_files import DurableFiles
from qwenctl.settings import Settings

_FILE = "default-model"
_MAX_BYTES = 4096


def read_default(settings: Settings) -> str | None:
    """Return the name that was chosen, None where none was."""
    try:
        with (settings.data_dir / _FILE).open("rb") as file:
            return file.read(_MAX_BYTES).decode(errors="surrogateescape").strip() or None
    except OSError:
        return None


def write_default(name: str | None, settings: Settings) -> None:
    """Choose a model; None: none.

    Raises:
        OSError: the folder of the data cannot be written.
    """
    path = settings.data_dir / _FILE
    if name is None:
        path.unlink(missing_ok=True)
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    data = f"{name}\n".encode(errors="surrogateescape")
    DurableFiles().replace_whole(path, [(0, memoryview(data))], len(data))
