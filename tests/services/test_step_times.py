"""Which steps are noted, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from qwenctl.core import GenerationRequest, TokenBias
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_options import StepTimesOptions
from qwenctl.services.parallel_rule import StepTime
from qwenctl.services.step_record import StepFile
from qwenctl.services.step_times import LEAST_STEPS, MOST_STEPS, N_WARM_UP, StepTimes


class Watched:
    """Step times with a clock that the test moves."""

    def __init__(self, *, warm: bool = True) -> None:
        self.now_s = 0.0
        self.kept: list[Mapping[int, StepTime]] = []
        self.times = StepTimes(lambda: self.now_s, self.kept.append)
        for _ in range(N_WARM_UP if warm else 0):
            self.step(1, 99.0)

    def step(self, n_sequences: int, seconds: float, n_tokens: int | None = None) -> None:
        self.times.begin()
        self.now_s += seconds
        self.times.computed(n_sequences, n_sequences if n_tokens is None else n_tokens)

    @property
    def result(self) -> Mapping[int, StepTime]:
        self.times.keep()
        return self.kept.pop() if self.kept else {}


def test_lower_quartiles_by_number_of_sequences() -> None:
    watched = Watched()
    for seconds in (7.0, 1.0, 2.0, 2.0, 2.0, 4.0, 5.0, 1000.0, 500.0):
        watched.step(4, seconds)
    for _ in range(LEAST_STEPS):
        watched.step(1, 0.5)
    for _ in range(LEAST_STEPS - 1):
        watched.step(2, 0.7)
    assert watched.result == {1: StepTime(LEAST_STEPS, 0.5), 4: StepTime(9, 2.0)}
    assert watched.result == {}  # kept once


def test_steps_with_prompts_count_nowhere() -> None:
    watched = Watched()
    for _ in range(50):
        watched.step(4, 1.0, n_tokens=5)
        watched.times.begin()  # own streams: a prompt's batch, then those that generate
        watched.times.computed(1, 64)
        watched.times.computed(4, 4)
        watched.times.begin()  # broken off
    watched.times.computed(4, 4)
    assert watched.result == {}


def test_the_first_steps_count_nowhere() -> None:
    watched = Watched(warm=False)
    for seconds in [9.0] * N_WARM_UP + [1.0] * LEAST_STEPS:
        watched.step(3, seconds)
    assert watched.result == {3: StepTime(LEAST_STEPS, 1.0)}


def test_the_last_steps_count() -> None:
    watched = Watched()
    for seconds in [9.0] * 1000 + [1.0] * MOST_STEPS:
        watched.step(3, seconds)
    assert watched.result == {3: StepTime(MOST_STEPS, 1.0)}


@pytest.mark.parametrize("n_cells", [None, 1024])
def test_an_engine_notes_its_steps(n_cells: int | None, demo_gguf: Path, tmp_path: Path) -> None:
    options = EngineOptions(
        n_ctx=128, n_parallel=4, n_cells=n_cells, n_threads=1, step_times=StepTimesOptions(tmp_path, "batch")
    )
    with Engine.open(demo_gguf, options) as engine:
        never = tuple(TokenBias(token, -1000.0) for token in engine.tokenize(f"{engine.info.eos_token}<|endoftext|>"))
        prompt = engine.tokenize("Once there was a prompt of some tokens, and then of some more.")
        for number, n_tokens in enumerate((40, 60, 60, 60)):
            engine.submit(GenerationRequest(f"r{number}", prompt, max_tokens=n_tokens, logit_bias=never))
        n_steps = 0
        while engine.has_work:
            engine.step()
            n_steps += 1
        file = StepFile.of(demo_gguf, options, ())
        assert file is not None
        assert file.read().steps == {}  # nothing is written while it works
    steps = file.read().steps
    assert file.read().chosen == {"batch": 4}
    assert {3, 4} <= set(steps) <= {1, 2, 3, 4}
    assert 40 <= sum(one.n_steps for one in steps.values()) <= n_steps - N_WARM_UP
    assert all(0 < one.seconds < 60 for one in steps.values())


def test_an_engine_alone_writes_nothing(demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Engine.open(demo_gguf, EngineOptions(n_ctx=128, n_threads=1)) as engine:
        list(engine.generate(GenerationRequest("r", engine.tokenize("Hello"), max_tokens=40)))
    assert list(tmp_path.iterdir()) == []
