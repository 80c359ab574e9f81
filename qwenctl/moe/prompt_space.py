"""What a prompt's micro-batch takes of a device's memory beside the slots of experts, and where in it. Pure.

| x [n_embd, tokens] | results [n_embd, tokens × used] | experts passing through | one chunk of pairs |
"""

from __future__ import annotations

from dataclasses import dataclass

CHUNK_EXPERTS = (16, 8, 4, 2, 1)  # experts that a graph computes, …
CHUNK_ROWS = (8, 16, 32, 48, 64, 96, 128)  # … and pairs of each: few sizes, few graphs
MOST_PASSING = 16  # experts at once
_FLOAT_BYTES = 4
_ALIGNMENT = 4096
_SLACK_BYTES = 1 << 20  # alignment of a chunk's tensors, and what some devices want beyond a tensor's own size


@dataclass(frozen=True, slots=True)
class PromptSpace:
    """The largest micro-batch, and the largest of the layers' widths.

    Raises:
        ValueError: a size below one.
    """

    n_embd: int
    n_ff: int
    n_used: int
    n_tokens: int
    expert_bytes: int  # of the largest expert, padding included

    def __post_init__(self) -> None:
        if min(self.n_embd, self.n_ff, self.n_used, self.n_tokens, self.expert_bytes) < 1:
            raise ValueError(f"no prompt has {self}")

    @property
    def row_bytes(self) -> int:
        """Of a row of input or results."""
        return self.n_embd * _FLOAT_BYTES

    @property
    def results_at(self) -> int:
        """Offset of the results."""
        return _padded(self.n_tokens * self.row_bytes)

    @property
    def passing_at(self) -> int:
        """Offset of the experts that pass through."""
        return self.results_at + _padded(self.n_tokens * self.n_used * self.row_bytes)

    @property
    def passing_bytes(self) -> int:
        """Their room."""
        return _padded(MOST_PASSING * self.expert_bytes)

    @property
    def chunk_at(self) -> int:
        """Offset of a chunk's own tensors."""
        return self.passing_at + self.passing_bytes

    @property
    def n_bytes(self) -> int:
        """All of it."""
        floats = 2 * self.n_embd + 3 * self.n_ff + 3
        return self.chunk_at + _padded(CHUNK_EXPERTS[0] * CHUNK_ROWS[-1] * floats * _FLOAT_BYTES + _SLACK_BYTES)


def bucket_of(n_pairs: int) -> int:
    """Return the rows of the graph that computes so many pairs of an expert, at most CHUNK_ROWS[-1]."""
    return next(size for size in CHUNK_ROWS if n_pairs <= size)


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
