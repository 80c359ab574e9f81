"""Prompts that are kept on disk by a real engine on tiny models: the same tokens as without, in every cache layout.

The engine's clock makes a second of every look at it, so that everything is worth keeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams, Usage
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.prefix_cache import worth
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.prefix_cache.prefix_store import stored_files
from tests.services.recurrent_gguf import jamba, mamba, windowed
from tests.tiny_gguf import TinyGguf

DOCUMENT = tuple(10 + n * n % 200 for n in range(600))
FIRST, SECOND = (*DOCUMENT, *range(40, 60)), (*DOCUMENT, *range(90, 120))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return TinyGguf.of("qwen3moe").write(tmp_path / "model.gguf")


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    cache = PrefixCacheOptions(tmp_path / "prefixes", 1 << 28)
    return EngineOptions(n_ctx=1024, n_threads=1, prefix_cache=cache)


def slow_clock() -> Callable[[], float]:
    ticks = count()
    return lambda: float(next(ticks))


def answer(engine: Engine, prompt: tuple[int, ...], name: str = "one", n_tokens: int = 8) -> tuple[str, Usage]:
    request = GenerationRequest(name, prompt, SamplingParams(temperature=0), n_tokens)
    text, ends = "", []
    for event in engine.generate(request):
        if isinstance(event, Finished):
            ends.append(event)
        else:
            text += getattr(event, "text", "")
    engine.check_integrity()
    assert ends[0].reason in (FinishReason.LENGTH, FinishReason.STOP)
    return text, ends[0].usage


def asked(path: Path, options: EngineOptions, prompt: tuple[int, ...]) -> tuple[str, Usage]:
    """Answer in an engine of its own."""
    with Engine.open(path, options, clock=slow_clock()) as engine:
        return answer(engine, prompt)


def without(options: EngineOptions) -> EngineOptions:
    return replace(options, prefix_cache=None)


def files(options: EngineOptions) -> list[Path]:
    assert options.prefix_cache is not None
    return sorted(file.path for file in stored_files(options.prefix_cache.folder))


LAYOUTS: dict[str, dict[str, object]] = {
    "values transposed": {"flash_attention": False},
    "flash attention": {"flash_attention": True},
    "quantized": {"flash_attention": True, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    "f32": {"cache_type_k": "f32", "cache_type_v": "f32"},
    "own streams": {"n_parallel": 3},
    "shared cells": {"n_parallel": 3, "n_cells": 2048},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_question_about_a_document_after_a_restart(model: Path, options: EngineOptions, layout: str) -> None:
    options = replace(options, **LAYOUTS[layout])  # type: ignore[arg-type]
    _, first = asked(model, options, FIRST)
    assert (first.n_cached_tokens, first.n_from_disk) == (0, 0)
    text, second = asked(model, options, SECOND)
    assert second.n_from_disk == second.n_cached_tokens == len(DOCUMENT)
    assert (text, second.n_prompt_tokens) == (asked(model, without(options), SECOND)[0], len(SECOND))


def test_the_same_prompt_again_is_computed_but_for_its_last_token(model: Path, options: EngineOptions) -> None:
    text, _ = asked(model, options, FIRST)
    again, usage = asked(model, options, FIRST)
    assert usage.n_from_disk == len(FIRST) - 1
    assert again == text


def test_an_entry_of_a_smaller_context_serves_a_larger_one_and_not_the_other_way(
    model: Path, options: EngineOptions
) -> None:
    asked(model, options, FIRST)
    assert asked(model, replace(options, n_ctx=2048), SECOND)[1].n_from_disk == len(DOCUMENT)
    longer = (*DOCUMENT, *DOCUMENT[::-1], *DOCUMENT)
    asked(model, replace(options, n_ctx=2048), longer)
    assert asked(model, options, longer[:900])[1].n_from_disk == len(DOCUMENT)  # from the other file
    largest = max(files(options), key=lambda path: path.stat().st_size)
    for path in set(files(options)) - {largest}:
        path.unlink()
    assert asked(model, options, longer[:900])[1].n_from_disk == 0


def test_a_conversation_keeps_one_file_that_grows(model: Path, options: EngineOptions) -> None:
    prompt = FIRST
    for turn in range(3):
        _, usage = asked(model, options, prompt)
        assert len(files(options)) == 1
        assert usage.n_from_disk == (0 if turn == 0 else len(prompt) - 60)
        prompt = (*prompt, *range(50 + turn, 110 + turn))


def test_what_lies_in_memory_is_not_read_again(model: Path, options: EngineOptions) -> None:
    with Engine.open(model, options, clock=slow_clock()) as engine:
        answer(engine, FIRST)
        _, usage = answer(engine, SECOND)
    assert (usage.n_cached_tokens, usage.n_from_disk) == (len(DOCUMENT), 0)


def test_other_settings_another_file_or_a_changed_one_have_nothing_in_common(
    model: Path, options: EngineOptions
) -> None:
    asked(model, options, FIRST)
    for other in ({"cache_type_k": "q8_0"}, {"flash_attention": True}, {"n_parallel": 2}):
        assert asked(model, replace(options, **other), SECOND)[1].n_cached_tokens == 0  # type: ignore[arg-type]
    moved = model.rename(model.with_name("moved.gguf"))
    assert asked(moved, options, SECOND)[1].n_from_disk == len(DOCUMENT)
    data = bytearray(moved.read_bytes())
    data[-1] ^= 1
    moved.write_bytes(data)
    assert asked(moved, options, SECOND)[1].n_cached_tokens == 0


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "tokens":
        path.write_bytes(data[:20] + b"\xff\xff\xff\x7f" + data[24:])
    elif how == "cell count":  # what llama.cpp would make an allocation of
        at = 12 + 4 * int.from_bytes(data[8:12], "little")
        path.write_bytes(data[: at + 4] + b"\xff\xff\xff\x7f" + data[at + 8 :])
    else:
        path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])


@pytest.mark.parametrize("how", ["cut", "empty", "tokens", "cell count", "a bit"])
def test_damaged_files_are_removed_and_never_handed_to_llama(
    model: Path, options: EngineOptions, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(model, options, FIRST)
    [path] = files(options)
    damage(path, how)
    seen: list[bool] = []
    with Engine.open(model, options, clock=slow_clock()) as engine:
        monkeypatch.setattr(engine._model, "load_state", lambda *_: seen.append(True) or 0)
        text, usage = answer(engine, SECOND)
        assert not path.exists()
    assert (seen, usage.n_cached_tokens) == ([], 0)
    assert text == asked(model, without(options), SECOND)[0]


def test_a_state_that_llama_refuses_is_removed_and_the_prompt_computed(
    model: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file, but told to belong to a context whose values are not transposed."""
    asked(model, replace(options, flash_attention=False), FIRST)
    [path] = files(options)
    with Engine.open(model, replace(options, flash_attention=True), clock=slow_clock()) as engine:
        engine._model.state_layout = replace(engine._model.state_layout, flash_attention=0)
        text, usage = answer(engine, SECOND)
        assert not path.exists()
        assert usage.n_cached_tokens == 0
    assert text == asked(model, without(replace(options, flash_attention=True)), SECOND)[0]


@pytest.fixture(params=[mamba, jamba, windowed])
def recurrent(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Recurrent layers alone, one beside one with attention, or attention that forgets."""
    return Path(request.param().write(tmp_path / "recurrent.gguf"))


def test_memory_without_a_way_back_goes_on_from_exactly_what_was_stored(
    recurrent: Path, options: EngineOptions
) -> None:
    asked(recurrent, options, FIRST)
    stored = files(options)
    assert len(stored) >= 2  # before the last piece of 108 tokens, behind it, and perhaps behind the answer
    text, usage = asked(recurrent, options, SECOND)
    assert usage.n_from_disk == 512
    assert text == asked(recurrent, without(options), SECOND)[0]
    assert set(files(options)) > set(stored)
    longer = (*FIRST, 7, 8, 9)
    text, usage = asked(recurrent, options, longer)
    assert usage.n_from_disk == len(FIRST)
    assert text == asked(recurrent, without(options), longer)[0]


def test_a_full_disk_costs_nothing_but_the_entry(
    model: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = asked(model, without(options), FIRST)[0]
    with Engine.open(model, options, clock=slow_clock()) as engine:
        monkeypatch.setattr(engine._model, "save_state", lambda *_: 0)  # what it returns when a write fails
        assert answer(engine, FIRST)[0] == expected
    assert files(options) == []
    assert options.prefix_cache is not None
    assert not [path for path in options.prefix_cache.folder.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_costs_nothing(model: Path, options: EngineOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = PrefixCacheOptions(tmp_path / "file" / "prefixes")
    text, usage = asked(model, replace(options, prefix_cache=cache), FIRST)
    assert (text, usage.n_cached_tokens) == (asked(model, without(options), FIRST)[0], 0)


def test_short_prompts_are_not_kept(model: Path, options: EngineOptions) -> None:
    asked(model, options, FIRST[: worth.MIN_TOKENS - 50])
    assert files(options) == []


def test_what_is_quickly_computed_is_not_kept(model: Path, options: EngineOptions) -> None:
    with Engine.open(model, options) as engine:  # by the true clock: 600 tokens in some milliseconds
        answer(engine, FIRST)
    assert files(options) == []


def test_nothing_is_kept_with_a_limit_of_nothing_or_while_routing_is_traced(
    model: Path, options: EngineOptions, tmp_path: Path
) -> None:
    assert options.prefix_cache is not None
    asked(model, replace(options, prefix_cache=replace(options.prefix_cache, most_bytes=0)), FIRST)
    asked(model, replace(options, trace_file=str(tmp_path / "trace")), FIRST)
    assert files(options) == []


def test_a_cancelled_prompt_is_not_lost(model: Path, options: EngineOptions) -> None:
    options = replace(options, n_batch=128, n_ubatch=128)
    with Engine.open(model, options, clock=slow_clock()) as engine:
        engine.submit(GenerationRequest("a", FIRST, SamplingParams(temperature=0), 8))
        for _ in range(3):
            engine.step()
        engine.cancel("a")
        engine.step()
    assert asked(model, options, SECOND)[1].n_from_disk == 3 * 128


def test_a_long_prompt_is_written_now_and_then(model: Path, options: EngineOptions) -> None:
    """With the clock of this test each chunk takes seconds, so that a checkpoint is due every few chunks."""
    options = replace(options, n_batch=32, n_ubatch=32)
    ticks = count()
    with Engine.open(model, options, clock=lambda: 10.0 * next(ticks)) as engine:
        engine.submit(GenerationRequest("a", FIRST, SamplingParams(temperature=0), 8))
        for _ in range(12):
            engine.step()
        engine._prefixes.settle()
        engine._prefixes.close()
        assert len(files(options)) == 1  # before the prompt is complete
    with Engine.open(model, options, clock=slow_clock()) as engine:
        assert answer(engine, SECOND)[1].n_from_disk >= worth.MIN_TOKENS


def test_a_question_that_comes_while_the_last_state_is_written_waits_for_its_cells(
    model: Path, options: EngineOptions
) -> None:
    expected = [asked(model, without(options), prompt)[0] for prompt in (FIRST, SECOND, FIRST[::-1])]
    with Engine.open(model, options, clock=slow_clock()) as engine:
        texts = [answer(engine, prompt, str(n))[0] for n, prompt in enumerate((FIRST, SECOND, FIRST[::-1]))]
    assert texts == expected
    assert files(options)


def test_an_interrupt_while_a_state_is_read_leaves_the_engine_usable(
    model: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(model, options, FIRST)
    with Engine.open(model, options, clock=slow_clock()) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine._model, "load_state", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                answer(engine, SECOND)
        assert not engine.has_work
        text, usage = answer(engine, SECOND)
        assert usage.n_from_disk == len(DOCUMENT)
    assert text == asked(model, without(options), SECOND)[0]


def _interrupted(*_: object) -> int:
    raise KeyboardInterrupt


def test_several_sequences_at_once(model: Path, options: EngineOptions) -> None:
    options = replace(options, n_parallel=3, n_cells=3000)
    prompts = {
        name: (*DOCUMENT[start:], *range(30 + start, 60 + start)) for name, start in (("a", 0), ("b", 3), ("c", 9))
    }
    for expected in (0, None):
        with Engine.open(model, options, clock=slow_clock()) as engine:
            for name, prompt in prompts.items():
                engine.submit(GenerationRequest(name, prompt, SamplingParams(temperature=0), 4))
            ends = list(_ends(engine))
            engine.check_integrity()
        for end in ends:
            assert end.usage.n_from_disk == (len(prompts[end.request_id]) - 1 if expected is None else expected)


def _ends(engine: Engine) -> Iterator[Finished]:
    while engine.has_work:
        yield from (event for event in engine.step() if isinstance(event, Finished))
