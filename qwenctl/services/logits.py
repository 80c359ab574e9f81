"""The logits of given token sequences, position by position, from llama.cpp: what quality measurements need.

Sequences are computed from an empty KV cache, several at a time in streams of their own, so that none sees another.
Knows nothing of text, templates or sampling; the engine (engine.py) is the way to generate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.native_model import NativeModel, open_native_model
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.step_plan import Chunk

Tokens = npt.NDArray[np.int32]


class Piece(NamedTuple):
    """Positions `first` … `end - 1` of every sequence of a batch; those from `scored` on give logits."""

    first: int
    end: int
    scored: int


class LogitsBlock(NamedTuple):
    """Logits of a run of positions of one sequence."""

    sequence: int
    first: int  # position of the first row
    logits: npt.NDArray[np.float32]  # (n_positions, n_vocab), llama.cpp's own memory: valid until the next block


def cut_pieces(n_tokens: int, first_scored: int, most_tokens: int, most_scored: int) -> tuple[Piece, ...]:
    """Return the pieces that `n_tokens` positions are computed in, of at most so many tokens and scored positions.

    Raises:
        ValueError: a piece could hold nothing.
    """
    if most_tokens < 1 or most_scored < 1:
        raise ValueError(f"pieces of {most_tokens} tokens, {most_scored} of them scored")
    pieces, start = [], 0
    while start < n_tokens:
        scored = max(start, first_scored)
        end = min(n_tokens, start + most_tokens, scored + most_scored)
        pieces.append(Piece(start, end, min(scored, end)))
        start = end
    return tuple(pieces)


class LogitsModel:
    """An opened model that computes sequences.

    Args:
        model: the model.
        thread: on which it was opened.
        options: with which it was opened, an output for each sequence at least. Of each of `n_parallel` sequences, a
            batch has that part of `n_batch` tokens and `n_outputs` rows of logits, also where fewer are computed.
    """

    def __init__(self, model: NativeModel, thread: NativeThread, options: EngineOptions) -> None:
        self._model = model
        self._thread = thread
        self._most_tokens = options.n_batch // options.n_parallel
        self._most_scored = (options.n_outputs or options.n_parallel) // options.n_parallel

    @property
    def path(self) -> Path:
        """The model's file."""
        return self._model.path

    @property
    def n_vocab(self) -> int:
        """Logits of a position."""
        return self._model.vocabulary.n_tokens

    def compute(self, sequences: Tokens, first_scored: int = 0) -> Iterator[LogitsBlock]:
        """Yield the logits of all positions from `first_scored` on, of at most as many sequences as run in parallel.

        Args:
            sequences: (n_sequences, n_tokens).
            first_scored: the first position whose logits are wanted.

        Raises:
            GenerationFailed: llama.cpp failed.
        """
        n_sequences, n_tokens = sequences.shape
        self._thread.run(self._model.forget)
        for piece in cut_pieces(n_tokens, first_scored, self._most_tokens, self._most_scored):
            self._fill(sequences, piece)
            logits = self._thread.run(partial(self._decode, n_sequences * (piece.end - piece.scored)))
            for sequence, rows in enumerate(logits.reshape(n_sequences, -1, self.n_vocab)):
                if len(rows):
                    yield LogitsBlock(sequence, piece.scored, rows)

    def _fill(self, sequences: Tokens, piece: Piece) -> None:
        """Write the batch: of each sequence, the tokens without logits, then those with, one at a time."""
        chunks, tokens = [], []
        for slot, sequence in enumerate(sequences):
            if piece.first < piece.scored:
                chunks.append(Chunk(slot, piece.first, piece.scored - piece.first, wants_logits=False))
                tokens.append(sequence[piece.first : piece.scored])
            for position in range(piece.scored, piece.end):
                chunks.append(Chunk(slot, position, 1, wants_logits=True))
                tokens.append(sequence[position : position + 1])
        self._model.batch.fill(chunks, tokens)

    def _decode(self, n_rows: int) -> npt.NDArray[np.float32]:
        """Compute the batch; return a view of its logits (n_rows, n_vocab), in the order of the batch."""
        status = self._model.decode()
        if status != 0:
            raise GenerationFailed(f"{self.path}: llama_decode failed with status {status}")
        if not n_rows:
            return np.empty((0, self.n_vocab), np.float32)
        address = llama_cpp.llama_get_logits(self._model.context)
        return np.ctypeslib.as_array(address, shape=(n_rows, self.n_vocab))


def sequence_logits(path: Path, sequences: Tokens, *, n_threads: int = 2) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the logits, f32 (n_tokens, n_vocab), of each row of `sequences`, (n_sequences, n_tokens).

    Each row is computed alone (KV cache in F16, as llama.cpp has it by default), by llama.cpp as it comes.

    Raises:
        ModelLoadFailed: llama.cpp refuses the file.
        GenerationFailed: llama.cpp fails to compute a sequence.
    """
    n_tokens = sequences.shape[1]
    options = EngineOptions(
        n_ctx=n_tokens,
        n_batch=n_tokens,
        n_ubatch=n_tokens,
        n_outputs=n_tokens,
        n_threads=n_threads,
        offload=OffloadOptions("off"),
    )
    model, thread = open_native_model(path, options)
    with closing(thread), closing(model):
        opened = LogitsModel(model, thread, options)
        for sequence in sequences:
            for block in opened.compute(sequence[None]):
                yield block.logits.copy()
