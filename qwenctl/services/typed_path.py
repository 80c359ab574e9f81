"""Words that somebody typed, as names of files. A prompt may look like one, so no question here fails.

pathlib raises where a name is too long for the file system (before Python 3.14), and where `~name` is no user.
"""

from __future__ import annotations

from pathlib import Path


def typed_path(text: str) -> Path:
    """Return `text` as a path. A `~` at its beginning is the home folder; that of a user who is not there stays."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_file(path: Path) -> bool:
    """Tell whether there is such a file, and it can be seen."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Tell whether there is a file or a folder of this name, and it can be seen."""
    try:
        return path.exists()
    except OSError:
        return False
