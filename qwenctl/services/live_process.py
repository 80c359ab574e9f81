"""Whether a process is there, for files that bear a process's number in their names."""

from __future__ import annotations

import os


def is_alive(process: str) -> bool:
    """Return whether there is a process of this number; what is no number names none."""
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
