"""The logits of a computed batch, and the quick questions about them: which token is the most probable, which are the
k most probable ones.

A row a token that wanted logits, in the order of the batch. What can be is computed for all rows at once: with small
models, a call of numpy for each sequence costs as much as the model. The k best of a vocabulary are found without
sorting it: the maxima of groups of tokens say above which logit they must lie. Knows nothing of samplers.
"""

from __future__ import annotations

import ctypes
import math
from functools import cached_property
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed

Row = npt.NDArray[np.float32]

N_GROUPS = 256
_LEAST_TOKENS = 32 * N_GROUPS  # a smaller vocabulary is as quickly sorted by llama.cpp


class BatchLogits:
    """All rows of a batch: llama.cpp's own memory, valid until the next batch is computed.

    Args:
        rows: f32 (n_rows, n_vocab).
        context: llama_context pointer, for what llama.cpp does itself.
    """

    def __init__(self, rows: npt.NDArray[np.float32], context: Any = None) -> None:
        self.rows = rows
        self.context = context

    @classmethod
    def of_context(cls, context: Any, n_rows: int, n_vocab: int) -> BatchLogits:
        """Return the logits of the batch just computed, `n_rows` of whose tokens wanted them.

        Raises:
            GenerationFailed: llama.cpp has none.
        """
        pointer = llama_cpp.llama_get_logits(context)
        if not pointer:
            raise GenerationFailed("llama.cpp has no logits of the batch")
        floats = (ctypes.c_float * (n_rows * n_vocab)).from_address(ctypes.addressof(pointer.contents))
        return cls(np.frombuffer(memoryview(floats), np.float32).reshape(n_rows, n_vocab), context)

    @cached_property
    def best_tokens(self) -> list[int]:
        """The most probable token of each row."""
        return [int(token) for token in self.rows.argmax(axis=1)]

    @cached_property
    def group_maxima(self) -> npt.NDArray[np.float32]:
        """The highest logit of each of `N_GROUPS` groups of tokens, f32 (n_rows, N_GROUPS); NaN if one is."""
        n_rows, n_vocab = self.rows.shape
        n_whole = n_vocab - n_vocab % N_GROUPS
        maxima = np.empty((n_rows, N_GROUPS), np.float32)
        for row, found in zip(self.rows, maxima, strict=True):
            np.maximum.reduce(row[:n_whole].reshape(-1, N_GROUPS), axis=0, out=found)
            if n_whole < n_vocab:
                rest = found[: n_vocab - n_whole]
                np.maximum(rest, row[n_whole:], out=rest)
        return maxima


class TokenLogits:
    """The logits after one token of a batch.

    Args:
        batch: all of them.
        row: in `batch.rows`.
        index: of the token in llama.cpp's batch.
    """

    __slots__ = ("batch", "index", "row")

    def __init__(self, batch: BatchLogits, row: int, index: int) -> None:
        self.batch = batch
        self.row = row
        self.index = index

    @property
    def values(self) -> Row:
        """F32 (n_vocab,)."""
        row: Row = self.batch.rows[self.row]
        return row

    def best(self) -> int:
        """Return the most probable token.

        Raises:
            GenerationFailed: its logit is not finite: the model or the computation is broken.
        """
        token = self.batch.best_tokens[self.row]
        check_highest(float(self.batch.rows[self.row, token]))
        return token

    def check(self) -> None:
        """Raise GenerationFailed unless the highest logit is finite and none is NaN."""
        check_highest(float(self.values.max()))

    def top(self, k: int) -> tuple[npt.NDArray[np.intp], Row] | None:
        """Return the k most probable tokens and their logits, best first; None where that would not be quick.

        Raises:
            GenerationFailed: the highest logit is not finite, or one is NaN.
        """
        if k > N_GROUPS // 2 or self.batch.rows.shape[1] < _LEAST_TOKENS:
            return None
        maxima = self.batch.group_maxima[self.row]
        bounds = np.partition(maxima, N_GROUPS - k)[N_GROUPS - k :]  # k groups hold a logit of at least bounds[0]
        check_highest(float(bounds.max()))
        values = self.values
        tokens = np.flatnonzero(values >= bounds[0])
        logits = values[tokens]
        order = np.argsort(-logits, kind="stable")[:k]
        return tokens[order], logits[order]


def check_highest(logit: float) -> None:
    """Raise GenerationFailed unless a row's highest logit is a finite number."""
    if not math.isfinite(logit):
        raise GenerationFailed(f"llama.cpp computed {logit} as a logit")
