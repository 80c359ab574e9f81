"""What an offloaded split model computes, held against the same model in one file on stock llama.cpp."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quant.gguf_read import read_gguf
from qwenctl.moe.expert_map import read_expert_map
from tests.moe.offload_runs import Played, Run, assert_same, offloaded, play_together, stock
from tests.moe.split_gguf import split_gguf


@pytest.fixture(scope="module")
def reference(demo_gguf: Path) -> Played:
    """What stock llama.cpp computes from the demo in one file."""
    with Run(demo_gguf, stock()) as run:
        return play_together(run)


@pytest.mark.parametrize("n_files", [2, 3])
def test_an_offloaded_split_model_computes_what_the_file_does(
    demo_gguf: Path, reference: Played, tmp_path: Path, n_files: int
) -> None:
    """Bit for bit, with experts read from all files; the name of the unsplit file does not exist any more."""
    copied = shutil.copy(demo_gguf, tmp_path / "demo.gguf")
    n_tensors = len(read_gguf(copied).tensors)
    first = split_gguf(copied, tmp_path, [n_tensors * n // n_files for n in range(1, n_files)])
    copied.unlink()
    experts = read_expert_map(read_gguf(first))
    assert experts is not None
    assert {tensor.file for layer in experts.layers for tensor in layer.tensors} == set(range(n_files))
    with Run(first, offloaded(6)) as run:
        assert_same(play_together(run), reference)
        assert run.stats["bytes_read"] > 0
