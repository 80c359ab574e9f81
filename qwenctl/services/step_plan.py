"""Which tokens of which sequences are computed next. Pure: sequences in, batches out; knows no llama.cpp.

A step continues every sequence that is generating (one token each), and spends what is left of its budget on prompts,
oldest first, in chunks. While somebody generates, the budget is one micro-batch, so that a long prompt delays the
others by little; otherwise it is a whole batch.

    shared cache     one batch: generating tokens, then chunks, together at most n_batch tokens
    own streams      a batch for each chunk, then one with the generating tokens, those of the prompts just completed
                     among them. A chunk's size depends on its own sequence only, so that its numbers do not depend on
                     what else runs. llama.cpp would compute them apart in any case: within a micro-batch it wants the
                     same number of tokens from each stream, and streams in ascending order without gaps
                     (llama_batch_allocr::split_equal).

Where a chunk ends. All its tokens are held against the cells up to there, rounded up to 256: 505 tokens behind 20 look
at 768, 492 of them alone at 512. A chunk ends at such a block as long as no more chunks come of it; without the flash
kernel, which passes over masked cells, also if one more does: attention is a third cheaper, for one more pass
over the weights. Models with experts never take that pass, which may have to read these from disk: their numbers are to
be the same wherever experts are.

Each gap in the order of streams is one more pass over all weights. A row for a stream that is idle there is cheaper;
what it computes is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

# On two cores a step of n sequences takes a + b n: a = 2 b for SmolLM2-135M, more for larger models.
_MOST_FILLED = 2
_CELL_BLOCK = 256  # llama.cpp's attention looks at so many cells at a time
_LEAST_CUT = 32  # tokens whose attention to a block costs what a pass over the weights does, or more


class Pending(NamedTuple):
    """A sequence as the plan sees it."""

    slot: int
    n_cached: int  # tokens in the KV cache
    n_known: int  # tokens known: prompt and generated; always more than are cached


class Chunk(NamedTuple):
    """Tokens `first` … `first + n_tokens - 1` of the sequence in `slot`."""

    slot: int
    first: int
    n_tokens: int
    wants_logits: bool  # of its last token: the sequence's next token is to be sampled


Batch = tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a step may compute. `n_batch` must not be smaller than the number of sequences."""

    n_batch: int
    n_ubatch: int
    shared_cache: bool
    cuts_at_blocks: bool = False  # also if that makes one more chunk


class StepPlan(NamedTuple):
    """What to compute. With own streams, `generating_batch` of what is known then comes after it."""

    batches: tuple[Batch, ...]
    held_back: tuple[int, ...]  # slots to give up for now, newest first: their cells are needed by older sequences

    @property
    def n_tokens(self) -> int:
        """KV cells that the batches take."""
        return sum(chunk.n_tokens for batch in self.batches for chunk in batch)


def plan_step(sequences: Sequence[Pending], limits: StepLimits, free_cells: int | None = None) -> StepPlan:
    """Plan the next step.

    Args:
        sequences: oldest first.
        limits: of the context.
        free_cells: KV cells that may be taken; None: as many as are wanted. With one sequence left, at least one.
    """
    room = limits.n_batch * len(sequences) if free_cells is None else free_cells
    kept, held_back = _fitting(sequences, room)
    decode = generating_batch(kept)
    prompts = [one for one in kept if one.n_known - one.n_cached > 1]
    budget = limits.n_ubatch if decode else limits.n_batch
    if not limits.shared_cache:
        return StepPlan(tuple((chunk,) for chunk in _own_chunks(prompts, limits, budget)), held_back)
    n_most = min(max(1, budget - len(decode)), limits.n_batch - len(decode), room - len(decode))
    batch = decode + _shared_chunks(prompts, n_most)
    return StepPlan((batch,) if batch else (), held_back)


def generating_batch(sequences: Sequence[Pending]) -> Batch:
    """Return the next token of every sequence that lacks just one, in ascending order of slots."""
    generating = sorted(one for one in sequences if one.n_known - one.n_cached == 1)
    return tuple(Chunk(one.slot, one.n_cached, 1, True) for one in generating)


def gap_fillers(batch: Batch, idle: Mapping[int, int]) -> tuple[Chunk, ...]:
    """Return a token for each idle slot in the gaps of `batch` that are cheaper filled than computed around.

    Args:
        batch: one of `generating_batch`.
        idle: of the slots that belong to nobody, the tokens that each holds. One that holds so many that all streams
            would look at more cells because of it is not used.
    """
    n_seen = max((chunk.first // _CELL_BLOCK + 1) * _CELL_BLOCK for chunk in batch)
    fillers: list[Chunk] = []
    for one, after in pairwise(batch):
        gap = range(one.slot + 1, after.slot)
        if len(gap) <= _MOST_FILLED and all(idle.get(slot, n_seen) < n_seen for slot in gap):
            fillers += (Chunk(slot, idle[slot], 1, False) for slot in gap)
    return tuple(fillers)


def _fitting(sequences: Sequence[Pending], room: int) -> tuple[Sequence[Pending], tuple[int, ...]]:
    """Return the sequences that can go on with `room` cells, and the slots of the newest ones that cannot.

    Each generating sequence needs a cell; when there are prompts too, the oldest of them needs one to get on.
    """
    kept = list(sequences)
    held_back: list[int] = []
    while len(kept) > 1:
        n_generating = sum(one.n_known - one.n_cached == 1 for one in kept)
        if n_generating + (n_generating < len(kept)) <= room:
            break
        held_back.append(kept.pop().slot)
    return kept, tuple(held_back)


def _shared_chunks(prompts: Sequence[Pending], budget: int) -> Batch:
    chunks: list[Chunk] = []
    for one in prompts:
        n_tokens = min(one.n_known - one.n_cached, budget)
        if n_tokens <= 0:
            break
        chunks.append(Chunk(one.slot, one.n_cached, n_tokens, one.n_cached + n_tokens == one.n_known))
        budget -= n_tokens
    return tuple(chunks)


def _own_chunks(prompts: Sequence[Pending], limits: StepLimits, budget: int) -> Batch:
    """A chunk is a micro-batch at most; the last one may overdraw the budget."""
    chunks: list[Chunk] = []
    for one in prompts:
        first = one.n_cached
        while one.n_known - first > 1 and budget > 0:  # a single last token goes with those that generate
            n_tokens = _chunk_tokens(first, one.n_known, limits)
            chunks.append(Chunk(one.slot, first, n_tokens, first + n_tokens == one.n_known))
            first += n_tokens
            budget -= n_tokens
    return tuple(chunks)


def _chunk_tokens(first: int, n_known: int, limits: StepLimits) -> int:
    """Return how many tokens the chunk has that begins at `first`."""
    most = min(limits.n_ubatch, limits.n_batch)
    n_left = n_known - first
    n_tokens = min(n_left, most)
    if limits.cuts_at_blocks:
        to_block = _CELL_BLOCK - first % _CELL_BLOCK
        return min(to_block + (_CELL_BLOCK if to_block < _LEAST_CUT else 0), n_tokens)
    to_block = (first + n_tokens) // _CELL_BLOCK * _CELL_BLOCK - first
    return to_block if to_block > 0 and n_left - to_block <= (-(-n_left // most) - 1) * most else n_tokens
