"""Vectors that a server was asked for, computed a few lists at a time so that those who generate wait for little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import numpy as np

from qwenctl.errors import QwenctlError
from qwenctl.services.embedder import Embeddings

_MOST_TOKENS = 512  # at a time, a list at least: about what a step computes of a prompt


class EmbeddingJob:
    """Some lists of tokens and the future of their vectors."""

    def __init__(self, token_lists: Sequence[Sequence[int]]) -> None:
        self.future: Future[Embeddings] = Future()
        self._lists = token_lists
        self._n_done = 0
        self._rows: list[Embeddings] = []

    def advance(self, embed: Callable[[Sequence[Sequence[int]]], Embeddings]) -> bool:
        """Compute a few more. False: it is over, with a result, an error of ours, or because it was cancelled.

        Raises:
            BaseException: what `embed` raises that is none of our errors; the future has it, too.
        """
        if not self._n_done and not self.future.set_running_or_notify_cancel():
            return False
        end, n_tokens = self._n_done, 0
        while end < len(self._lists) and (end == self._n_done or n_tokens + len(self._lists[end]) <= _MOST_TOKENS):
            n_tokens += len(self._lists[end])
            end += 1
        try:
            self._rows.append(embed(self._lists[self._n_done : end]))
        except BaseException as error:
            self.fail(error)
            if isinstance(error, QwenctlError):
                return False
            raise
        self._n_done = end
        if end == len(self._lists):
            self.future.set_result(np.concatenate(self._rows))
        return not self.future.done()

    def fail(self, error: BaseException) -> None:
        """End it with an error, unless it is over: whoever waits may cancel it at any moment."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)
