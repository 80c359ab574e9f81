"""The prefix cache that an engine's options ask for."""

from __future__ import annotations

from collections.abc import Callable

from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.native_model import NativeModel
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.prefix_cache.disk_prefixes import DiskPrefixes
from qwenctl.services.prefix_cache.memory_only import MemoryOnly
from qwenctl.services.prefix_cache.prefix_store import PrefixStore


def open_prefixes(
    model: NativeModel, thread: NativeThread, options: EngineOptions, clock: Callable[[], float]
) -> MemoryOnly:
    """Return the cache of an opened model; one that keeps nothing where routing is traced, of every token."""
    if options.prefix_cache is None or options.prefix_cache.most_bytes == 0 or options.trace_file is not None:
        return MemoryOnly()
    return DiskPrefixes(model, thread, PrefixStore(options.prefix_cache), clock)
