"""The k most probable tokens are those of a full sort, and sampling from them draws what llama.cpp draws from all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwenctl.core import Finished, GenerationRequest, SamplingParams
from qwenctl.errors import GenerationFailed
from qwenctl.services import batch_logits
from qwenctl.services.batch_logits import N_GROUPS, BatchLogits, TokenLogits
from qwenctl.services.engine import Engine, EngineOptions


def test_the_best_tokens_of_every_row() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 10_000)).astype(np.float32)
    batch = BatchLogits(rows)
    assert [TokenLogits(batch, row, row).best() for row in range(5)] == list(rows.argmax(axis=1))


@pytest.mark.parametrize("n_vocab", [32 * N_GROUPS, 32 * N_GROUPS + 1, 49_152, 151_936])
@pytest.mark.parametrize("k", [1, 20, N_GROUPS // 2])
def test_the_k_best_are_those_of_a_full_sort(n_vocab: int, k: int) -> None:
    rows = np.random.default_rng(k).normal(size=(3, n_vocab)).astype(np.float32)
    rows[1].sort()  # all of the best at the end
    rows[2, :5] = 50
    batch = BatchLogits(rows)
    for row in range(3):
        top = TokenLogits(batch, row, row).top(k)
        assert top is not None
        expected = np.argsort(-rows[row], kind="stable")[:k]
        assert list(top[0]) == list(expected)
        assert list(top[1]) == list(rows[row][expected])


def test_suppressed_tokens_and_few_others() -> None:
    row = np.full(32 * N_GROUPS, -np.inf, np.float32)
    row[[7, 300, 5000]] = (1, 3, 2)
    top = TokenLogits(BatchLogits(row[None]), 0, 0).top(20)
    assert top is not None
    assert list(top[0][:3]) == [300, 5000, 7]
    assert len(top[0]) == 20


def test_what_is_not_quick_is_left_to_others() -> None:
    row = TokenLogits(BatchLogits(np.zeros((1, 32 * N_GROUPS), np.float32)), 0, 0)
    assert row.top(N_GROUPS // 2 + 1) is None
    assert TokenLogits(BatchLogits(np.zeros((1, 1000), np.float32)), 0, 0).top(5) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_an_error(value: float) -> None:
    rows = np.zeros((2, 32 * N_GROUPS), np.float32)
    rows[1, 8000] = value
    good, bad = (TokenLogits(BatchLogits(rows), row, row) for row in range(2))
    good.check()
    assert good.top(5) is not None
    for ask in (bad.best, bad.check, lambda: bad.top(5)):
        with pytest.raises(GenerationFailed, match="as a logit"):
            ask()


def test_the_draw_is_llama_cpp_s_own_for_the_same_seed(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_threads=1)) as engine:
        prompt = engine.tokenize("<|im_start|>user\nTell me a story.<|im_end|>\n<|im_start|>assistant\n")

        def text(sampling: SamplingParams) -> str:
            request = GenerationRequest("one", prompt, sampling, 24)
            return "".join(event.text for event in engine.generate(request) if not isinstance(event, Finished))

        wanted = [
            SamplingParams(temperature=1.0, top_k=20, top_p=0.95, seed=seed, min_p=seed / 10) for seed in range(4)
        ]
        text(wanted[0])  # from now on the prompt is in the cache, and the numbers are the same every time
        quick = [text(one) for one in wanted]
        monkeypatch.setattr(batch_logits, "_LEAST_TOKENS", 10**9)
        assert [text(one) for one in wanted] == quick
        assert len(set(quick)) == 4
