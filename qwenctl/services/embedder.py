"""Vectors of texts: a second context of an opened model, beside the one that generates.

llama.cpp outputs every token of a context that gives embeddings, its logits too. So with the pooling of Qwen3-Embedding
(the last token) the tokens before it are computed as a prompt is, without any output, and the last ones of all texts
together. The mean needs every token's row; these are added up here, a few at a time, because llama.cpp's own mean is
one of a micro-batch only. Lists share the context's cells, and each sees its own tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed
from qwenctl.services.decode_batch import DecodeBatch
from qwenctl.services.embedding_plan import MOST_LISTS, Pooling, packs, runs
from qwenctl.services.step_plan import Chunk

Embeddings = npt.NDArray[np.float32]  # (n_lists, n_embd)

_ABORTED = 2  # llama_decode


class Embedder:
    """Owns its context. All calls on the engine's thread.

    Args:
        context: llama_context of `MOST_LISTS` sequences in one cache, without pooling of its own.
        n_cells: tokens that it holds.
        n_rows: tokens of a batch that may be output.
        pooling: of the model.
    """

    def __init__(self, context: Any, n_cells: int, n_rows: int, pooling: Pooling) -> None:
        self._context = context
        self._n_cells = n_cells
        self._pooling = pooling
        self._n_batch = int(llama_cpp.llama_n_batch(context))
        self._n_rows = n_rows
        self._batch = DecodeBatch(self._n_batch)
        self._n_embd = int(llama_cpp.llama_model_n_embd_out(llama_cpp.llama_get_model(context)))

    def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
        """Return the normalised vectors, a row a list. No list may be empty or longer than the cells.

        Raises:
            GenerationFailed: llama.cpp failed, or was made to stop.
        """
        rows = np.zeros((len(token_lists), self._n_embd), np.float32)
        for pack in packs([len(tokens) for tokens in token_lists], self._n_cells, MOST_LISTS):
            lists = [token_lists[number] for number in pack]
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
            rows[pack.start : pack.stop] = self._means(lists) if self._pooling == "mean" else self._lasts(lists)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(norms > 0, norms, 1), np.float32)

    def close(self) -> None:
        """Free the context."""
        llama_cpp.llama_free(self._context)

    def _lasts(self, lists: Sequence[Sequence[int]]) -> Embeddings:
        llama_cpp.llama_set_embeddings(self._context, False)
        for run in runs([len(tokens) - 1 for tokens in lists], self._n_batch):
            self._compute(lists, run)
        llama_cpp.llama_set_embeddings(self._context, True)
        rows = []
        for first in range(0, len(lists), self._n_rows):
            some = range(first, min(len(lists), first + self._n_rows))
            self._compute(lists, [(number, len(lists[number]) - 1, len(lists[number])) for number in some])
            rows.append(self._rows(len(some)))
        return np.concatenate(rows)

    def _means(self, lists: Sequence[Sequence[int]]) -> Embeddings:
        llama_cpp.llama_set_embeddings(self._context, True)
        sums = np.zeros((len(lists), self._n_embd), np.float64)
        for run in runs([len(tokens) for tokens in lists], self._n_rows):
            self._compute(lists, run)
            rows = self._rows(sum(end - first for _, first, end in run))
            begin = 0
            for number, first, end in run:
                sums[number] += rows[begin : begin + end - first].sum(axis=0, dtype=np.float64)
                begin += end - first
        return np.asarray(sums / [[len(tokens)] for tokens in lists], np.float32)

    def _compute(self, lists: Sequence[Sequence[int]], run: Sequence[tuple[int, int, int]]) -> None:
        chunks = [Chunk(number, first, end - first, wants_logits=False) for number, first, end in run]
        self._batch.fill(chunks, [lists[number][first:end] for number, first, end in run])
        status = int(llama_cpp.llama_decode(self._context, self._batch.native))
        if status == _ABORTED:
            raise GenerationFailed("the computation was ended")
        if status != 0:
            raise GenerationFailed(f"llama_decode failed with status {status}")

    def _rows(self, n_rows: int) -> Embeddings:
        """Return a copy of the last batch's rows, in its order."""
        address = llama_cpp.llama_get_embeddings(self._context)
        if not address:
            raise GenerationFailed("llama.cpp gives no embeddings of this model")
        return np.ctypeslib.as_array(address, shape=(n_rows, self._n_embd)).copy()
