"""Files in the form of stored prefixes whose cells are noise, for tests that need no llama.cpp."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from qwenctl.services.prefix_cache.entry_file import EntryRecord
from qwenctl.services.prefix_cache.prefix_store import PrefixStore
from qwenctl.services.prefix_cache.state_key import StateKey

KEY = StateKey("a model", "0123456789abcdef" * 2)
OTHER_KEY = StateKey("another", "f" * 32)
RATES = (0.01, 1e-6)


def state_bytes(tokens: Sequence[int], n_cell_bytes: int = 1000) -> bytes:
    """Return what llama_state_seq_save_file would write, with `n_cell_bytes` of noise for cells."""
    head = struct.pack(f"<III{len(tokens)}i", 0x67677371, 3, len(tokens), *tokens)
    return head + os.urandom(n_cell_bytes)


def record_of(tokens: Sequence[int], data: bytes, key: StateKey = KEY, n_prompt: int | None = None) -> EntryRecord:
    """Return the record of a state that has not been completed yet."""
    return EntryRecord(key.digest, key.model, len(tokens), n_prompt or len(tokens), len(data), 0, *RATES)


def store_prefix(
    store: PrefixStore,
    tokens: Sequence[int],
    key: StateKey = KEY,
    n_cell_bytes: int = 1000,
    n_prompt: int | None = None,
) -> Path:
    """Put a prefix into the store as the engine does; return its file."""
    data = state_bytes(tokens, n_cell_bytes)
    assert store.make_room(len(data) + 4096)
    unfinished = store.begin(key, tokens)
    unfinished.write_bytes(data)
    store.publish(unfinished, record_of(tokens, data, key, n_prompt))
    return next(path for path in unfinished.parent.iterdir() if path.stem == unfinished.name.split(".")[0])
