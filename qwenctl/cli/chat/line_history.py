"""What was typed before, for the arrow keys: kept in a file that its owner alone can read, or in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prompt_toolkit.history import FileHistory, InMemoryHistory


class _KeptHistory(FileHistory):
    def __init__(self, path: Path, unfold: Callable[[str], str]) -> None:
        super().__init__(str(path))
        self._unfold = unfold

    def append_string(self, string: str) -> None:
        super().append_string(self._unfold(string))


class _ForgottenHistory(InMemoryHistory):
    def __init__(self, unfold: Callable[[str], str]) -> None:
        super().__init__()
        self._unfold = unfold

    def append_string(self, string: str) -> None:
        super().append_string(self._unfold(string))


def open_history(path: Path | None, unfold: Callable[[str], str]) -> FileHistory | InMemoryHistory:
    """Return the history kept in `path`; one in memory if that is None or cannot be written.

    Args:
        unfold: puts pastes in the place of their marks.
    """
    if path is None:
        return _ForgottenHistory(unfold)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            return _KeptHistory(path, unfold)
    except OSError:
        return _ForgottenHistory(unfold)
