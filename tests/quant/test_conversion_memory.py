"""Peak memory does not grow with the model: a worker holds one slice, whatever the tensors are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quant.column_read import KEPT_BYTES
from tests.packed_checkpoint import Packing, pack_checkpoint
from tests.tiny_checkpoint import TinyModel, tiny_weights, write_checkpoint

pytestmark = pytest.mark.slow

_BOUND_BYTES = 96 << 20  # interpreter, numpy and libggml take 35 MiB; each of two workers less than 16


def peak_rss_bytes(source: Path, out: Path) -> int:
    command = [sys.executable, "-m", "qwenctl", "convert", str(source), str(out), "--type", "q8_0", "--threads", "2"]
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    return int(json.loads(run.stdout)["peak_rss_bytes"])


@pytest.mark.parametrize("n_layers", [1, 8])
def test_peak_memory(tmp_path: Path, n_layers: int) -> None:
    """The larger model has 219 MB of weights, and tensors of 17 MB in BF16, 34 MB as f32."""
    model = TinyModel(n_layers=n_layers, n_experts=16, expert_width=512, hidden=1024, vocab_size=8192)
    assert peak_rss_bytes(write_checkpoint(tmp_path / "source", model), tmp_path / "m.gguf") < _BOUND_BYTES


@pytest.mark.parametrize("packing", [Packing("awq", group_size=128), Packing("gptq", group_size=128, desc_act=True)])
def test_peak_memory_of_a_packed_source(tmp_path: Path, packing: Packing) -> None:
    """Matrices of 25 million weights: 12 MB packed, which is two panels, and 100 MB as f32."""
    model = TinyModel("Qwen3ForCausalLM", n_layers=1, hidden=2048, dense_width=12288, vocab_size=512, tied=True)
    whole = write_checkpoint(tmp_path / "whole", model)
    pack_checkpoint(whole, tmp_path / "source", tiny_weights(model), packing)
    assert peak_rss_bytes(tmp_path / "source", tmp_path / "m.gguf") < _BOUND_BYTES + KEPT_BYTES
