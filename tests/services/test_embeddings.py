"""Vectors of texts: as llama.cpp's own pooling gives them, in any company, beside an engine that generates."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams
from qwenctl.errors import GenerationFailed, InvalidRequest, PromptTooLong
from qwenctl.services.embedding_plan import packs, pooling_of, runs
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_messages import MessageError
from qwenctl.services.engine_process import EngineProcess
from qwenctl.services.engine_rows import decode_rows, encode_rows

OPTIONS = EngineOptions(n_ctx=512, n_parallel=2, n_threads=1, n_batch=64, n_ubatch=64)
TEXTS = ("The cat sat on the mat.", "a", "What is the capital of France?", "word " * 200, "Paris is a city. " * 30)


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine.open(demo_gguf, OPTIONS) as opened:
        yield opened


@pytest.fixture
def last_token(engine: Engine) -> Iterator[Engine]:
    """A model whose file says that the last token is the text's vector, which the demo's does not."""
    model = engine._model
    metadata, embedder = model._metadata, model._embedder
    model._metadata = {**metadata, f"{metadata['general.architecture']}.pooling_type": 3}
    model._embedder = None
    yield engine
    model._metadata, model._embedder = metadata, embedder


def lists(engine: Engine | EngineProcess) -> list[tuple[int, ...]]:
    return [engine.tokenize(text, parse_special=False) for text in TEXTS]


def assert_alike(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    """Numbers depend a little on how many tokens are computed at once: 4-bit weights have kernels for each case."""
    assert ((found * expected).sum(axis=1) > 0.999).all()


def directly(path: Path, token_lists: Sequence[Sequence[int]], pooling: int) -> npt.NDArray[np.float32]:
    """Return what llama.cpp's own pooling makes of lists, each alone and in a single micro-batch."""
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    params.embeddings, params.pooling_type = True, pooling
    context = llama_cpp.llama_init_from_model(model, params)
    rows = []
    for tokens in token_lists:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        n_embd = llama_cpp.llama_model_n_embd_out(model)
        row = np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_seq(context, 0), shape=(n_embd,)).copy()
        rows.append(row / np.linalg.norm(row))
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.array(rows, np.float32)


def test_the_mean_is_llama_cpp_s_own(engine: Engine, demo_gguf: Path) -> None:
    found = engine.embed(lists(engine))
    assert found.dtype == np.float32
    assert_alike(found, directly(demo_gguf, lists(engine), llama_cpp.LLAMA_POOLING_TYPE_MEAN))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_last_token_is_llama_cpp_s_own(last_token: Engine, demo_gguf: Path) -> None:
    found = last_token.embed(lists(last_token))
    expected = directly(demo_gguf, lists(last_token), llama_cpp.LLAMA_POOLING_TYPE_LAST)
    assert_alike(found, expected)
    means = directly(demo_gguf, lists(last_token), llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    assert (found * means).sum(axis=1)[0] < 0.9


def test_a_list_is_the_same_in_any_company(engine: Engine) -> None:
    together = engine.embed(lists(engine) * 20)
    alone = np.concatenate([engine.embed([tokens]) for tokens in lists(engine)])
    assert_alike(together, np.tile(alone, (20, 1)))
    assert engine.embed([]).shape == (0, alone.shape[1])


def test_generation_goes_on_around_it(engine: Engine) -> None:
    prompt = engine.tokenize("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    request = GenerationRequest("one", prompt, SamplingParams(temperature=0), 12)
    alone = list(engine.generate(request))
    engine.submit(request)
    events = []
    while engine.has_work:
        events += engine.step()
        engine.embed(lists(engine)[:2])
    assert [event for event in events if not isinstance(event, Finished)] == alone[:-1]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.LENGTH
    engine.check_integrity()


def test_what_has_no_vector_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        engine.embed([(1, 2), ()])
    with pytest.raises(InvalidRequest, match="does not have"):
        engine.embed([(1, 10**6)])
    with pytest.raises(PromptTooLong):
        engine.embed([(1,) * 513])
    with pytest.raises(InvalidRequest, match="'rank'"):
        pooling_of({"general.architecture": "qwen3", "qwen3.pooling_type": 4})


def test_closing_is_not_missed_just_before_computing(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.open(demo_gguf, OPTIONS)
    rearm, aborted = engine._model.rearm, threading.Event()
    monkeypatch.setattr(engine._model, "abort", aborted.set)
    closing = threading.Thread(target=engine.close)

    def close_then_rearm() -> None:
        closing.start()
        assert aborted.wait(60)
        rearm()

    monkeypatch.setattr(engine._model, "rearm", close_then_rearm)
    with pytest.raises(GenerationFailed, match="closed"):
        engine.embed([(1, 2)])
    closing.join()


def test_a_process_gives_the_same(engine: Engine, demo_gguf: Path) -> None:
    with EngineProcess.open(demo_gguf, OPTIONS) as remote:
        np.testing.assert_array_equal(remote.embed(lists(remote)), engine.embed(lists(engine)))
        with pytest.raises(InvalidRequest, match="empty"):
            remote.embed([()])
    with pytest.raises(GenerationFailed, match="closed"):
        remote.embed([(1,)])


def test_rows_survive_the_pipe_and_nonsense_does_not() -> None:
    rows = np.array([[1.5, -2, 3e-39], [np.float32(0.1), 5, 6]], np.float32)
    np.testing.assert_array_equal(decode_rows(encode_rows(rows)), rows)
    for value in (
        None,
        {},
        {"n_columns": 2, "data": "!"},
        {"n_columns": 2, "data": "AAAA"},
        {"n_columns": "x", "data": ""},
    ):
        with pytest.raises(MessageError):
            decode_rows(value)


def test_what_is_computed_together() -> None:
    assert list(packs([5, 5, 5, 100, 1], 10, 64)) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert list(packs([1] * 5, 10, 2)) == [range(2), range(2, 4), range(4, 5)]
    assert list(packs([], 10, 2)) == []
    assert list(runs([3, 0, 4], 5)) == [[(0, 0, 3), (2, 0, 2)], [(2, 2, 4)]]
    assert list(runs([0], 5)) == []
