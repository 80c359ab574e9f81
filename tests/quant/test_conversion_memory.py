"""Peak memory does not grow with the model: a worker holds one slice, whatever the tensors are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_checkpoint import TinyModel, write_checkpoint

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
