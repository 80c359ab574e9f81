"""SHA-256 whose state can be written down and taken up again by another process; hashlib's cannot.

Compiled (sha256.c) where the extension was built. Where it was not, hashlib stands in and has no state to write down:
`state` is None, and whoever wants to go on after a kill begins again.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from pathlib import Path

from quant.extension import load_extension

_NAME = "_sha256"


class _State(ctypes.Structure):
    """`struct sha256` of sha256.c."""

    _fields_ = (("h", ctypes.c_uint32 * 8), ("n_bytes", ctypes.c_uint64), ("tail", ctypes.c_uint8 * 64))


class ResumableSha256:
    """A hash in the making; not to be updated from two threads at once.

    Args:
        state: what another one's `state` was, on a machine of this byte order; None: nothing was hashed yet.
        portable: without the processor's SHA instructions, for tests.

    Raises:
        ValueError: a state that is none, or one where the extension was not built.
    """

    def __init__(self, state: bytes | None = None, *, portable: bool = False) -> None:
        library = _library()
        if library is None:
            raise ValueError("the extension quant._sha256 was not built")
        if state is not None and len(state) != ctypes.sizeof(_State):
            raise ValueError(f"a state has {ctypes.sizeof(_State)} bytes, not {len(state)}")
        self._library = library
        self._portable = portable
        self._state = _State()
        if state is None:
            library.sha256_begin(ctypes.byref(self._state))
        else:
            ctypes.memmove(ctypes.byref(self._state), state, len(state))

    def update(self, data: memoryview) -> None:
        """Hash more bytes, contiguous and one an element; other threads run meanwhile."""
        n_bytes = data.nbytes
        array = (ctypes.c_uint8 * n_bytes).from_buffer(data)
        self._library.sha256_update(ctypes.byref(self._state), array, n_bytes, self._portable)

    @property
    def state(self) -> bytes | None:
        """What a new object needs to go on from here."""
        return bytes(self._state)

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far."""
        digest = (ctypes.c_uint8 * 32)()
        self._library.sha256_digest(ctypes.byref(self._state), digest, self._portable)
        return bytes(digest).hex()


class _HashlibSha256:
    """Stands in for `ResumableSha256` where it was not compiled."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.state: bytes | None = None
        self.update = self._hash.update
        self.hexdigest = self._hash.hexdigest


Sha256 = ResumableSha256 | _HashlibSha256


def begin_sha256(state: bytes | None = None) -> Sha256:
    """Return a hash that goes on from `state`, or begins. A state is only given back to the build that made it.

    Raises:
        ValueError: a state that cannot be gone on from.
    """
    if state is None and not is_compiled():
        return _HashlibSha256()
    return ResumableSha256(state)


def is_compiled() -> bool:
    """Tell whether states can be written down."""
    return _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    """Return the extension built from sha256.c; None: it was not built."""
    library = load_extension(Path(__file__).parent, _NAME, "sha256_begin", "sha256_update", "sha256_digest")
    if library is not None:
        pointer, count, flag = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int32
        library.sha256_begin.argtypes = (pointer,)
        library.sha256_update.argtypes = (pointer, pointer, count, flag)
        library.sha256_digest.argtypes = (pointer, pointer, flag)
        for function in (library.sha256_begin, library.sha256_update, library.sha256_digest):
            function.restype = None
    return library
