"""How many sequences are computed at the same time where nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.errors import GgufError
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.parallel_choice import choose_parallel, parallel_for
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
