"""The arrays of a llama_batch, filled a chunk at a time. Knows nothing of what the tokens mean.

llama_batch_init makes an array of pointers to one array of sequence ids a token; here all of them point into one numpy
array, so that a prompt's chunk is five slice assignments, whatever its length.

    token     i32 (n_batch,)    token ids
    pos       i32 (n_batch,)    positions in their sequences
    n_seq_id  i32 (n_batch,)    1 each
    seq_id    *   (n_batch,)    pointers to one i32 each: the slot
    logits    i8  (n_batch,)    1 where logits are wanted
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np

from qwenctl.services.step_plan import Chunk


class DecodeBatch:
    """A batch of at most `n_batch` tokens that can be filled again and again."""

    def __init__(self, n_batch: int) -> None:
        self._tokens = np.zeros(n_batch, np.int32)
        self._positions = np.zeros(n_batch, np.int32)
        self._n_slots = np.ones(n_batch, np.int32)
        self._slots = np.zeros(n_batch, np.int32)
        self._wants_logits = np.zeros(n_batch, np.int8)
        self._slot_pointers = (self._slots.ctypes.data + 4 * np.arange(n_batch)).astype(np.uintp)
        self.native = llama_cpp.llama_batch(n_tokens=0)
        for field, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._n_slots),
            ("seq_id", self._slot_pointers),
            ("logits", self._wants_logits),
        ):
            kind = dict(llama_cpp.llama_batch._fields_)[field]
            setattr(self.native, field, ctypes.cast(array.ctypes.data, kind))

    def fill(self, batch: Sequence[Chunk], tokens: Sequence[Sequence[int]], fillers: Sequence[Chunk] = ()) -> list[int]:
        """Write `batch`; `tokens` are each chunk's own.

        Args:
            fillers: more chunks, of any tokens, which go where their slots' numbers belong.

        Returns:
            For each chunk the index of its last token: where llama_get_logits_ith finds its logits, if it wants any.
        """
        if fillers:
            order = sorted([*zip(batch, tokens, strict=True), *((one, [0] * one.n_tokens) for one in fillers)])
            ends = self.fill(*zip(*order, strict=True))
            at = {chunk.slot: end for (chunk, _), end in zip(order, ends, strict=True)}
            return [at[chunk.slot] for chunk in batch]
        end = 0
        last: list[int] = []
        for chunk, ids in zip(batch, tokens, strict=True):
            begin, end = end, end + chunk.n_tokens
            self._tokens[begin:end] = ids
            self._positions[begin:end] = np.arange(chunk.first, chunk.first + chunk.n_tokens)
            self._slots[begin:end] = chunk.slot
            self._wants_logits[begin:end] = 0
            self._wants_logits[end - 1] = chunk.wants_logits
            last.append(end - 1)
        self.native.n_tokens = end
        return last
