"""What an evaluation has in memory at a time, and what it does in turns. Pure arithmetic on values.

    all at once    every model stays open, the reference too, and each chunk goes through all of them; of the logits no
                   more than a batch's of each model exist. Where weights, KV caches and logits of all fit together.
    in turns       one model open at a time. The reference's predictions of as many chunks as a quarter of the memory
                   holds are kept in two bytes each (quant/stored_predictions.py); then each model is opened and held
                   against them; then come the next chunks. Models are loaded once a round.

A chunk is computed alone where a model fits: several at once give the same bits and save nothing. Where experts are
read from the disk, each pass reads most of them, whatever its length, so several chunks are computed at once, in KV
streams of their own, as far as a sixteenth of the memory holds their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quant.perplexity import first_scored, n_scored
from qwenctl.moe.context_memory import ContextShape, compute_buffer_bytes, kv_cache_bytes, work_bytes
from qwenctl.moe.offload_options import OffloadMode
from qwenctl.units import MIB

_BASE_BYTES = 128 * MIB  # Python, numpy, llama.cpp
_MARGIN_SHARE, _STORED_SHARE, _LOGITS_SHARE = 20, 4, 16  # of the memory: one part in so many
_N_UBATCH = 512
_MOST_BATCH_TOKENS = 2048
_MOST_PASS_TOKENS = 4096  # of several chunks computed at once
_MOST_LOGITS_BYTES = 256 * MIB  # of a sequence in a batch: long chunks are computed in pieces


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What a model takes in memory while it is open, in bytes."""

    weights_bytes: int
    context_bytes: int  # activations
    sequence_bytes: int  # of each sequence computed at once: KV cache, and logits in the buffer and where they are read

    def total_bytes(self, n_sequences: int = 1) -> int:
        """All of it."""
        return self.weights_bytes + self.context_bytes + n_sequences * self.sequence_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """What there is, in bytes; `device_bytes` is None without a GPU, else what its memory has free."""

    budget_bytes: int
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """How chunks go through models."""

    n_sequences: int  # chunks computed at once
    keeps_all: bool  # all models are open at the same time
    n_round_chunks: int  # chunks between two looks at the same model
    n_rows: int  # of logits that a batch has of each chunk
    n_batch: int  # tokens of a batch
    fits: tuple[bool, ...]  # for each model whether llama.cpp can have it in memory whole

    @property
    def n_outputs(self) -> int:
        """Rows of logits of a batch."""
        return self.n_sequences * self.n_rows

    def n_rounds(self, n_chunks: int) -> int:
        """How often each model is opened."""
        return -(-n_chunks // self.n_round_chunks)


def model_needs(shape: ContextShape, file_bytes: int, n_ctx: int) -> ModelNeeds:
    """Return what a model of `shape` needs for chunks of `n_ctx` tokens, as llama.cpp does by default."""
    n_ubatch = min(_N_UBATCH, n_ctx)
    return ModelNeeds(
        weights_bytes=file_bytes,
        context_bytes=compute_buffer_bytes(shape, n_ubatch, n_ctx) + work_bytes(shape, n_ubatch, n_ctx),
        sequence_bytes=kv_cache_bytes(shape, n_ctx, 1) + 2 * 4 * shape.n_vocab * _n_rows(shape.n_vocab, n_ctx),
    )


def plan_evaluation(
    models: Sequence[ModelNeeds], memory: Memory, mode: OffloadMode, *, n_vocab: int, n_ctx: int, n_chunks: int
) -> EvaluationPlan:
    """Return the plan for `n_chunks` chunks of `n_ctx` tokens.

    Args:
        models: the reference, if there is one, is one of them.
        memory: of the machine or as allowed.
        mode: "on": experts are read from the disk whether they fit or not. One such model can be open at a time.
        n_vocab: the largest vocabulary.
        n_ctx: tokens of a chunk.
        n_chunks: how many.
    """
    room = memory.budget_bytes - memory.budget_bytes // _MARGIN_SHARE - _BASE_BYTES
    device = memory.device_bytes
    fits = tuple(_fit((one,), room, device) for one in models)
    offloaded = mode == "on" or not (all(fits) or mode == "off")
    n_rows = _n_rows(n_vocab, n_ctx)
    n_sequences = min(n_chunks, _n_sequences(memory.budget_bytes, n_rows * n_vocab, n_ctx)) if offloaded else 1
    keeps_all = mode != "on" and _fit(models, room, device)
    stored_bytes = 2 * n_vocab * n_scored(n_ctx)
    n_round = n_chunks if keeps_all else max(1, memory.budget_bytes // _STORED_SHARE // stored_bytes)
    return EvaluationPlan(
        n_sequences=n_sequences,
        n_rows=n_rows,
        keeps_all=keeps_all,
        n_round_chunks=min(n_chunks, n_round),
        n_batch=n_sequences * min(n_ctx, _MOST_BATCH_TOKENS),
        fits=fits,
    )


def _fit(models: Sequence[ModelNeeds], room: int, device_bytes: int | None) -> bool:
    in_main = sum(one.total_bytes() for one in models) <= room
    return in_main and (device_bytes is None or sum(one.total_bytes() for one in models) <= device_bytes)


def _n_rows(n_vocab: int, n_ctx: int) -> int:
    """Return the rows of logits that a batch holds of each chunk."""
    return min(n_ctx - first_scored(n_ctx), max(1, _MOST_LOGITS_BYTES // (4 * n_vocab)))


def _n_sequences(budget_bytes: int, n_logits: int, n_ctx: int) -> int:
    affordable = budget_bytes // _LOGITS_SHARE // (2 * 4 * n_logits)
    return max(1, min(affordable, _MOST_PASS_TOKENS // n_ctx))
