"""How the pairs of a prompt's experts are cut into chunks that one graph computes each. Pure.

A chunk has different experts, a column each, and as many rows as the longest column needs; so experts with about as
many pairs go together, and what an expert has beyond the longest column goes into another chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenctl.moe.prompt_space import CHUNK_EXPERTS, CHUNK_ROWS

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Slots, each once, and the pairs of token and place of each, at most CHUNK_ROWS[-1]; their number is one of
    CHUNK_EXPERTS."""

    slots: tuple[int, ...]
    pairs: tuple[Ints, ...]


def chunks_of(slots: Sequence[tuple[int, Ints]]) -> Iterator[Chunk]:
    """Yield chunks of all pairs.

    Args:
        slots: different ones, each with its pairs, at least one.
    """
    most = CHUNK_ROWS[-1]
    for first in range(0, max((len(pairs) for _, pairs in slots), default=0), most):
        pieces = [(slot, pairs[first : first + most]) for slot, pairs in slots if len(pairs) > first]
        pieces.sort(key=lambda piece: -len(piece[1]))
        while pieces:
            size = next(size for size in CHUNK_EXPERTS if size <= len(pieces))
            yield Chunk(tuple(slot for slot, _ in pieces[:size]), tuple(pairs for _, pairs in pieces[:size]))
            pieces = pieces[size:]
