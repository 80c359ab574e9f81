"""A flag that ggml looks at between two nodes of a graph: set from any thread, it ends what is being computed.

ggml asks a C function, a thousand times a token, so Python's lock must not be needed for the answer. strlen answers 0
for the text "" and 1 for "\\1"; the caller looks at the lowest byte, as for any bool.
"""

from __future__ import annotations

import ctypes
import sys


class AbortFlag:
    """Not set at first. Keep it as long as anything computes that was given its addresses."""

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """End what is being computed, and whatever is begun until `clear`."""
        self._text[0] = b"\1"

    def clear(self) -> None:
        """Let things be computed again."""
        self._text[0] = b"\0"

    @property
    def is_set(self) -> bool:
        """Whether computing is to end."""
        return self._text[0] != b"\0"

    @property
    def addresses(self) -> tuple[int, int]:
        """Addresses of the C function (void *data) → bool, and of its data."""
        library = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        return ctypes.cast(library.strlen, ctypes.c_void_p).value or 0, ctypes.addressof(self._text)
