"""Before a checkpoint is converted while it is downloaded: what is left to fetch, and whether the output fits.

Looks at the journal and at what grows beside it; changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.errors import NotEnoughDisk
from quant.journal import read_state
from quant.partial_output import DISK_RESERVE_BYTES, held_bytes
from quant.stream_spans import Span, spans_left
from qwenctl.services.remote_checkpoint import RemoteShards


@dataclass(frozen=True, slots=True)
class RemoteRoom:
    """What is to be fetched from a hub, what an earlier run has fetched and done, and the disk that it goes to."""

    n_bytes_to_fetch: int
    n_bytes_fetched_before: int
    disk_bytes: int  # of the whole output
    free_bytes: int


def find_room(
    spans: Sequence[Span],
    shards: RemoteShards,
    out: Path,
    total_bytes: int,
    *,
    identity: Mapping[str, str],
    growing: Sequence[Path],
    journal: Path,
) -> RemoteRoom:
    """Return what is to be done for `out`.

    Args:
        spans: of the whole source.
        shards: the source.
        out: the output.
        total_bytes: of it.
        identity: of the conversion: an earlier run with another one does not count.
        growing: the files that an earlier run may have left.
        journal: of it.

    Raises:
        NotEnoughDisk: the output will not fit.
    """
    state = read_state(journal.read_bytes()) if journal.exists() else None
    is_same = state is not None and state.identity == identity
    marks = state.read if state is not None and is_same else {}
    free_bytes = DurableFiles().free_bytes(out.absolute().parent)
    held = sum(map(held_bytes, growing)) if is_same else 0
    needed = max(0, total_bytes - held) + DISK_RESERVE_BYTES
    if free_bytes < needed:
        raise NotEnoughDisk(out.absolute().parent, needed, free_bytes)
    n_bytes = _remote_bytes(spans_left(spans, marks), shards)
    return RemoteRoom(n_bytes, _remote_bytes(spans, shards) - n_bytes, total_bytes, free_bytes)


def _remote_bytes(spans: Sequence[Span], shards: RemoteShards) -> int:
    return sum(span.n_bytes for span in spans if not shards.shards[span.path.name].is_local)
