"""How token lists are computed for their vectors: which rows are wanted, and which lists go together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from qwenctl.errors import InvalidRequest

MOST_LISTS = 64  # computed at the same time, each a sequence of the context
_MOST_LOGIT_BYTES = 64 << 20  # nobody wants them, but llama.cpp computes them of every token that it outputs

Pooling = Literal["mean", "last"]

_NAMES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # enum llama_pooling_type


def pooling_of(metadata: Mapping[str, Any]) -> Pooling:
    """Return how the rows of a text become one, from its file's metadata; where it does not say, the mean.

    Raises:
        InvalidRequest: in a way that only encoders and rerankers use.
    """
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 0)
    name = _NAMES.get(kind, str(kind))
    if name in ("cls", "rank"):
        raise InvalidRequest(
            f"this model pools by {name!r}: it gives no vectors here",
            "use a model for embeddings, Qwen3-Embedding for example",
        )
    return "last" if name == "last" else "mean"


def packs(lengths: Sequence[int], n_cells: int, most_lists: int) -> Iterator[range]:
    """Yield runs of lists that are computed together: as many as fit into the cells, one at least."""
    first = n_tokens = 0
    for number, length in enumerate(lengths):
        if number > first and (n_tokens + length > n_cells or number - first == most_lists):
            yield range(first, number)
            first, n_tokens = number, 0
        n_tokens += length
    if first < len(lengths):
        yield range(first, len(lengths))


def runs(lengths: Sequence[int], n_most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield batches of at most `n_most` tokens: of list (number), tokens first … end - 1. Empty lists are left out."""
    batch: list[tuple[int, int, int]] = []
    room = n_most
    for number, length in enumerate(lengths):
        first = 0
        while first < length:
            end = min(length, first + room)
            batch.append((number, first, end))
            room -= end - first
            first = end
            if not room:
                yield batch
                batch, room = [], n_most
    if batch:
        yield batch


def rows_at_once(n_vocab: int, n_batch: int) -> int:
    """Return how many tokens of a batch may be output."""
    return max(1, min(n_batch, _MOST_LOGIT_BYTES // (4 * n_vocab)))
