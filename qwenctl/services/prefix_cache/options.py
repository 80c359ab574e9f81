"""Where computed prompts are kept and how much of the disk they may take. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwenctl.errors import InvalidRequest
from qwenctl.units import GIB

FOLDER_NAME = "prefixes"  # in the cache folder
_MOST_DEFAULT_BYTES = 10 * GIB
_SHARE_OF_FREE = 0.1


@dataclass(frozen=True, slots=True)
class PrefixCacheOptions:
    """A folder for states of the KV cache.

    Raises:
        InvalidRequest: a limit below zero.
    """

    folder: Path
    most_bytes: int | None = None  # of all files together; None: `default_limit`

    def __post_init__(self) -> None:
        if self.most_bytes is not None and self.most_bytes < 0:
            raise InvalidRequest(f"the prompt cache cannot be limited to {self.most_bytes} bytes")

    def limit_bytes(self, free_bytes: int, taken_bytes: int) -> int:
        """Return what all files may take together; the arguments are `default_limit`'s."""
        return default_limit(free_bytes, taken_bytes) if self.most_bytes is None else self.most_bytes


def default_limit(free_bytes: int, taken_bytes: int) -> int:
    """Return the bytes that all files may take where nobody said: a tenth of what would be free without them.

    Args:
        free_bytes: what the file system still takes.
        taken_bytes: what the files take now.
    """
    return min(_MOST_DEFAULT_BYTES, int(_SHARE_OF_FREE * (free_bytes + taken_bytes)))
