"""What an evaluation keeps in memory: all at once where it fits, else in turns, and never more than there is."""

from __future__ import annotations

import pytest

from qwenctl.moe.context_memory import ContextShape
from qwenctl.services.evaluation_plan import EvaluationPlan, Memory, ModelNeeds, model_needs, plan_evaluation
from qwenctl.units import GIB, MIB

N_VOCAB = 151936
BF16, Q4, Q3 = (ModelNeeds(size * GIB, 300 * MIB, 350 * MIB) for size in (57, 18, 14))


def plan(
    *models: ModelNeeds,
    budget: int,
    device: int | None = None,
    mode: str = "auto",
    n_ctx: int = 512,
    n_chunks: int = 580,
) -> EvaluationPlan:
    return plan_evaluation(models, Memory(budget, device), mode, n_vocab=N_VOCAB, n_ctx=n_ctx, n_chunks=n_chunks)


def test_what_fits_together_is_open_together() -> None:
    found = plan(BF16, Q4, Q3, budget=128 * GIB)
    assert found.keeps_all
    assert found.fits == (True, True, True)
    assert (found.n_sequences, found.n_rounds(580)) == (1, 1)
    assert (found.n_batch, found.n_outputs) == (512, 256)


def test_what_does_not_takes_turns() -> None:
    found = plan(BF16, Q4, budget=64 * GIB)
    assert not found.keeps_all
    assert found.fits == (True, True)
    stored_bytes = found.n_round_chunks * 255 * 2 * N_VOCAB
    assert 15 * GIB < stored_bytes <= 16 * GIB  # a quarter
    assert found.n_rounds(580) == -(-580 // found.n_round_chunks) == 3


def test_experts_on_the_disk_are_read_for_several_chunks_at_once() -> None:
    found = plan(BF16, Q4, budget=32 * GIB)
    assert found.fits == (False, True)
    assert found.n_sequences == 6  # of 311 MB of logits each, a sixteenth of 32 GiB
    assert (found.n_batch, found.n_outputs) == (6 * 512, 6 * 256)
    assert plan(BF16, Q4, budget=48 * GIB).n_sequences == 8  # 4096 tokens
    assert plan(BF16, Q4, budget=4 * GIB).n_sequences == 1
    assert plan(BF16, Q4, budget=32 * GIB, mode="off").n_sequences == 1


def test_asked_for_offloading_opens_one_at_a_time() -> None:
    found = plan(Q3, Q4, budget=512 * GIB, mode="on")
    assert not found.keeps_all
    assert found.n_sequences == 8


def test_a_gpu_has_to_hold_them_too() -> None:
    assert plan(Q4, Q3, budget=128 * GIB, device=48 * GIB).keeps_all
    found = plan(Q4, Q3, budget=128 * GIB, device=24 * GIB)
    assert not found.keeps_all
    assert found.fits == (True, True)
    assert plan(BF16, Q4, budget=128 * GIB, device=24 * GIB).fits == (False, True)


def test_no_more_than_there_are_chunks() -> None:
    found = plan(BF16, Q4, budget=40 * GIB, n_chunks=3)
    assert (found.n_sequences, found.n_round_chunks) == (3, 3)


def test_a_round_has_a_chunk_at_least() -> None:
    assert plan(BF16, Q4, budget=100 * MIB).n_round_chunks == 1


@pytest.mark.parametrize("n_ctx", [512, 4096, 32768])
def test_logits_of_long_chunks_come_in_pieces(n_ctx: int) -> None:
    found = plan(Q4, budget=128 * GIB, n_ctx=n_ctx)
    assert found.n_outputs * N_VOCAB * 4 <= 256 * MIB
    assert found.n_batch == min(2048, n_ctx)


def test_needs_grow_with_chunks_and_vocabulary() -> None:
    metadata = {
        "general.architecture": "qwen3moe",
        "qwen3moe.block_count": 48,
        "qwen3moe.embedding_length": 2048,
        "qwen3moe.attention.head_count": 32,
        "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.key_length": 128,
    }
    needs = model_needs(ContextShape.of(metadata, N_VOCAB), 18 * GIB, 512)
    kv, logits = 2 * 2 * 48 * 4 * 128 * 512, 2 * 4 * N_VOCAB * 256
    assert needs.weights_bytes == 18 * GIB
    assert needs.sequence_bytes == kv + logits
    assert needs.total_bytes(3) - needs.total_bytes(1) == 2 * needs.sequence_bytes
