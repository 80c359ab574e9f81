"""How many sequences are computed at the same time where nobody says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.errors import GgufError
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_devices import engine_devices
from qwenctl.services.engine_options import EngineOptions, Purpose, StepTimesOptions
from qwenctl.services.parallel_choice import choose_parallel, parallel_for
from qwenctl.services.parallel_rule import StepTime
from qwenctl.services.step_record import StepFile, StepRecord
from qwenctl.units import GIB, MIB
from tests.tiny_gguf import TinyGguf


@pytest.mark.parametrize(
    ("available", "weights", "sequence", "n_parallel"),
    [
        (64 * GIB, 1 * GIB, 100 * MIB, 16),  # room for all that pay
        (9 * GIB, 5 * GIB, 100 * MIB, 10),  # a quarter of 4 GiB
        (9 * GIB, 5 * GIB, 2 * GIB, 1),  # not even one: still one
        (8 * GIB, 60 * GIB, 200 * MIB, 10),  # experts on disk: a quarter of all
        (0, 60 * GIB, 200 * MIB, 1),
    ],
)
def test_as_many_as_pay_and_fit(available: int, weights: int, sequence: int, n_parallel: int) -> None:
    choice = choose_parallel("batch", 4096, sequence, available, weights, has_gpu=False)
    assert choice.n_parallel == n_parallel
    assert choice.reason.startswith(f"{n_parallel} answers at the same time, ")
    assert ("gain little" in choice.reason) == (n_parallel == 16)


def test_a_server_takes_fewer_and_a_gpu_more() -> None:
    def chosen(purpose: str, *, has_gpu: bool) -> int:
        return choose_parallel(purpose, 4096, MIB, 64 * GIB, GIB, has_gpu=has_gpu).n_parallel  # type: ignore[arg-type]

    assert [chosen("serve", has_gpu=False), chosen("serve", has_gpu=True), chosen("batch", has_gpu=True)] == [8, 16, 32]


def known(fixed: float, sequence: float, *numbers: int, **chosen: int) -> StepRecord:
    return StepRecord({n: StepTime(64, 0.001 * (fixed + n * sequence)) for n in numbers}, chosen)


@pytest.mark.parametrize(
    ("purpose", "record", "n_parallel", "words"),
    [
        ("batch", known(0.9, 0.1, 1, 16), 32, "measured on this machine, they should give 7,805 tokens/s; more than"),
        ("batch", known(0.88, 0.12, 1, 16, 64), 64, "they give 7,477 tokens/s, twice as many 5% more (--par"),
        ("batch", known(0.1, 0.9, 1, 16, batch=4), 2, "they give 1,053 tokens/s, twice as many 3% more (--parallel)"),
        ("serve", known(0.67, 0.33, 2, 4), 8, "they should give 2,417 tokens/s, each 30% of what one alone has (--"),
        ("batch", known(1, 0, 4, 8), 16, "they should give 16,000 tokens/s; more than 8 were never measured (--"),
        ("batch", known(0.3, 0.7, 1, 16), 8, "they give 1,356 tokens/s, twice as many 3% more"),
        ("batch", known(0.3, 0.7, 1, 16, batch=8), 8, "measured on this machine"),
        ("batch", known(0.9, 0.1, 1, 4), 16, "more would gain little on this processor"),  # too far from 16
        ("batch", known(0.9, 0.1, 1), 16, "more would gain little on this processor"),
        ("batch", known(0.9, 0.1, 15, 16), 16, "more would gain little on this processor"),
    ],
)
def test_measured_steps_decide(purpose: Purpose, record: StepRecord, n_parallel: int, words: str) -> None:
    choice = choose_parallel(purpose, 4096, MIB, 64 * GIB, GIB, has_gpu=False, known=record)
    assert choice.n_parallel == n_parallel
    assert words in choice.reason


def test_memory_bounds_what_pays_by_measured_steps() -> None:
    record = known(0.9, 0.1, 1, 3)
    choice = choose_parallel("batch", 4096, GIB, 13 * GIB, GIB, has_gpu=False, known=record)
    assert choice.n_parallel == 3
    assert "a quarter of the memory beside the weights, 3.0 GiB, holds no more" in choice.reason


def test_what_a_run_left_decides(demo_gguf: Path, tmp_path: Path) -> None:
    options = EngineOptions(n_threads=1, n_ctx=256, step_times=StepTimesOptions(tmp_path))
    assert "measured" not in parallel_for(demo_gguf, options, "batch").reason
    file = StepFile.of(demo_gguf, options, engine_devices(None).memory)
    assert file is not None
    file.update(lambda _: known(0.3, 0.7, 1, 16))
    assert "measured on this machine, they give " in parallel_for(demo_gguf, options, "batch").reason
    assert "measured" not in parallel_for(demo_gguf, replace(options, cache_type_k="q8_0"), "batch").reason


def test_a_file_on_this_machine(smollm2_gguf: Path) -> None:
    choice = parallel_for(smollm2_gguf, EngineOptions(n_threads=1), "batch")
    assert 1 <= choice.n_parallel <= 16
    assert choice.n_ctx == 4096
    tight = EngineOptions(n_ctx=1024, offload=OffloadOptions("auto", ram_bytes=GIB))
    assert parallel_for(smollm2_gguf, tight, "batch").n_ctx == 1024
    # 30 layers of 3 heads of 64, keys and values of two bytes: 22.5 MiB for 1,024 tokens; 93 MB are weights
    beside = GIB - smollm2_gguf.stat().st_size
    assert parallel_for(smollm2_gguf, tight, "batch").n_parallel == min(16, beside // 4 // (1024 * 30 * 3 * 64 * 2 * 2))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    tiny = TinyGguf.of("qwen3")
    del tiny.pairs["general.architecture"]
    path = tiny.write(tmp_path / "no.gguf")
    with pytest.raises(GgufError, match=r"general\.architecture"):
        parallel_for(path, EngineOptions(n_threads=1), "serve")


@given(
    part=st.floats(0.001, 1),
    purpose=st.sampled_from(["batch", "serve"]),
    noise=st.lists(st.floats(1, 1.06), min_size=40, max_size=40),
)
def test_run_after_run_it_settles(part: float, purpose: Purpose, noise: list[float]) -> None:
    """Each run measures one alone and all that were chosen, each up to 6 % too slow."""
    record, chosen = StepRecord(), []
    for one, all_together in pairwise(noise):
        choice = choose_parallel(purpose, 4096, MIB, 64 * GIB, GIB, has_gpu=False, known=record)
        chosen.append(n := choice.n_parallel)
        run = {1: StepTime(20, one), n: StepTime(256, (1 - part + part * n) * all_together)}
        record = record.with_run(run).with_choice(purpose, n)
    assert all(after <= 2 * before and before <= 2 * after for before, after in pairwise(chosen))
    assert len(set(chosen[8:])) <= 2
    assert sum(before != after for before, after in pairwise(chosen[8:])) <= 2
