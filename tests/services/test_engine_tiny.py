"""The engine on tiny random models: recurrent memory, broken weights, the tokenizer's normal form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, SamplingParams, TextDelta
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.vocabulary import normalises_nfc
from tests.services.recurrent_gguf import mamba
from tests.tiny_gguf import STRING, TinyGguf

GREEDY = SamplingParams(temperature=0)
OPTIONS = EngineOptions(n_ctx=256, n_parallel=3, n_threads=1)


def _run(engine: Engine, *requests: GenerationRequest) -> tuple[dict[str, str], dict[str, Finished]]:
    for one in requests:
        engine.submit(one)
    events: list[GenerationEvent] = []
    while engine.has_work:
        events += engine.step()
    texts = {one.request_id: "" for one in requests}
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.request_id] += event.text
    return texts, {event.request_id: event for event in events if isinstance(event, Finished)}


@pytest.mark.parametrize("n_cells", [None, 300])
def test_recurrent_memory_is_computed_again_where_it_cannot_be_cut(tmp_path: Path, n_cells: int | None) -> None:
    path = mamba().write(tmp_path / "model.gguf")
    options = EngineOptions(n_ctx=256, n_parallel=3, n_cells=n_cells, n_threads=1)
    first = GenerationRequest("a", tuple(range(40, 80)), GREEDY, 6)
    other_end = GenerationRequest("b", (*range(40, 75), 99, 98), GREEDY, 6)
    with Engine.open(path, options) as engine:
        fresh_a, _ = _run(engine, first)
        engine._cache.forget_all()
        fresh_b, ends = _run(engine, other_end)
        assert ends["b"].usage.n_cached_tokens == 0
        engine._cache.forget_all()
        texts, ends = _run(engine, first, other_end)
        assert texts == fresh_a | fresh_b
        assert ends["b"].usage.n_cached_tokens == 0
        # The next turn goes on from exactly what a slot holds: that needs no way back.
        (slot,) = (slot for slot in engine._cache._table.slots if tuple(slot.tokens[:40]) == first.prompt_tokens)
        longer = GenerationRequest("c", (*slot.tokens, 77, 78), GREEDY, 4)
        texts, ends = _run(engine, longer)
        assert ends["c"].usage.n_cached_tokens == len(longer.prompt_tokens) - 2
        engine._cache.forget_all()
        assert _run(engine, longer)[0] == texts


def test_weights_that_are_no_numbers_end_the_request_not_the_process(tmp_path: Path) -> None:
    tiny = TinyGguf.of("qwen3moe")
    tiny.tensors["output_norm.weight"].data = np.full(64, np.nan, "<f4").tobytes()
    with Engine.open(tiny.write(tmp_path / "model.gguf"), OPTIONS) as engine:
        for number, sampling in enumerate((GREEDY, SamplingParams(), SamplingParams(grammar="root ::= [a-z]+"))):
            _, ends = _run(engine, GenerationRequest(f"{number}", (65, 66, 67), sampling, 4))
            end = ends[f"{number}"]
            assert end.reason is FinishReason.ERROR
            assert end.error == "llama.cpp computed nan as a logit"
        assert not engine.has_work


def test_a_grammar_without_a_way_on_ends_the_request_not_the_process(tmp_path: Path) -> None:
    """The vocabulary has single bytes only and the grammar wants a token that does not exist in it."""
    with Engine.open(TinyGguf.of("qwen3").write(tmp_path / "model.gguf"), OPTIONS) as engine:
        sampling = SamplingParams(temperature=0, grammar='root ::= "a" [\\u0000]')
        _, ends = _run(engine, GenerationRequest("one", (65, 66), sampling, 8))
    assert ends["one"].reason is FinishReason.ERROR
    assert "grammar allows no token" in (ends["one"].error or "")


def test_the_normal_form_of_the_models_tokenizer(tmp_path: Path) -> None:
    with Engine.open(TinyGguf.of("qwen3").write(tmp_path / "model.gguf"), OPTIONS) as engine:
        assert engine.tokenize("e\u0301") == engine.tokenize("é")
    tiny = TinyGguf.of("qwen3")
    tiny.pairs["qwenctl.tokenizer.normalizer"] = (STRING, "none")
    with Engine.open(tiny.write(tmp_path / "model.gguf"), OPTIONS) as engine:
        assert engine.tokenize("e\u0301") != engine.tokenize("é")
    assert normalises_nfc("nfc", "llama-bpe")
    assert not normalises_nfc(None, "llama-bpe")


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "qwen3moe"])
def test_random_text_is_the_same_alone_and_together(architecture: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    requests = [
        GenerationRequest(f"{number}", tuple(generator.integers(0, 250, 10 + 7 * number).tolist()), GREEDY, 20)
        for number in range(6)
    ]
    with Engine.open(TinyGguf.of(architecture).write(tmp_path / "model.gguf"), OPTIONS) as engine:
        together, ends = _run(engine, *requests)
        engine._cache.forget_all()
        alone: dict[str, str] = {}
        for one in requests:
            alone |= _run(engine, one)[0]
        assert together == alone
        assert {end.usage.n_generated_tokens for end in ends.values()} <= set(range(1, 21))
        engine.check_integrity()


def test_idle_streams_between_busy_ones_are_computed_with_them_and_forgotten(tmp_path: Path) -> None:
    """The second request of three ends first: what its slot holds stays as it was, and the others' texts, too."""
    path = TinyGguf.of("qwen3").write(tmp_path / "model.gguf")
    first, short, third = (
        GenerationRequest(name, tuple(range(start, start + 30)), GREEDY, n_tokens)
        for name, start, n_tokens in (("a", 40, 24), ("b", 80, 3), ("c", 120, 24))
    )
    sizes: list[int] = []
    with Engine.open(path, OPTIONS) as engine:
        alone = {}
        for one in (first, short, third):
            engine._cache.forget_all()
            alone |= _run(engine, one)[0]
        engine._cache.forget_all()
        decode = engine._model.decode

        def counted() -> int:
            sizes.append(int(engine._model.batch.native.n_tokens))
            return decode()

        engine._model.decode = counted  # type: ignore[method-assign]
        assert _run(engine, first, short, third)[0] == alone
        assert sizes.count(3) > 20  # 20 of which compute two requests
        engine.check_integrity()
        slot = engine._cache._table.slots[1]
        held = list(slot.tokens)
        again = GenerationRequest("d", (*held, 77), GREEDY, 4)
        texts, ends = _run(engine, again)
        assert ends["d"].usage.n_cached_tokens == len(held)
        engine._cache.forget_all()
        assert _run(engine, again)[0] == texts
