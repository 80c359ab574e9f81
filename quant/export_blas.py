"""One thread a matrix product: an export's workers are the threads, and those of BLAS would only be in their way.

numpy's wheels bring OpenBLAS along, whose number of threads can be set while it runs. Other libraries are left alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_SPELLINGS = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every matrix product run on the thread that asks for it, until the context is left."""
    found = _thread_functions()
    if found is None:
        yield
        return
    get, set_to = found
    before = get()
    set_to(1)
    try:
        yield
    finally:
        set_to(before)


def _thread_functions() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """Return OpenBLAS's functions that get and set the number of threads; None: numpy has another library."""
    package = Path(np.__file__).parent
    for path in sorted([*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]):
        try:
            library = ctypes.CDLL(str(path))  # the one that numpy has loaded already
        except OSError:
            continue
        for spelling in _SPELLINGS:
            if hasattr(library, spelling.format("set")):
                return getattr(library, spelling.format("get")), getattr(library, spelling.format("set"))
    return None
