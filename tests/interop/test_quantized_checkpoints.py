"""AWQ and GPTQ checkpoints of the demo in loaders that others wrote: they give the perplexity that our decoder gives.

Ours: the checkpoint, read by `quant` and converted to F32, through llama.cpp. Theirs: vLLM's CPU build and transformers
with GPTQModel, each in the environment that `make test-interop` makes from scripts/interop. Both compute in BF16, and
vLLM rounds the activations of 4-bit layers to 8 bits: a tenth of a percent of perplexity either way.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.checkpoint import open_checkpoint
from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import plan_conversion
from quant.libggml import load_libggml
from quant.pipeline import run_plan
from quant.recipe import OUTPUT_TYPES
from quant.tensor_read import read_rows_f32
from qwenctl.services.logits import sequence_logits
from qwenctl.services.safetensors_export import ExportRequest, FormatName, plan, write_plan
from scripts.interop_environment import find_python
from tests.packed_checkpoint import Packing, pack_checkpoint

pytestmark = [pytest.mark.interop, pytest.mark.slow]

_LOG = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows the figures

ROOT = Path(__file__).resolve().parents[2]
N_PACKED = {"vllm": 4 * 3, "gptqmodel": 4 * (4 + 3 * 16)}
"""Packed modules of the demo's four layers: vLLM makes one of q, k and v, and one of all experts."""

TOLERANCE = 0.005  # of perplexity
LIMIT_S = 1800


def _packed_by_hand(packing: Packing, demo: Path, target: Path) -> None:
    """Round the demo to nearest and pack it with the tests' own packer."""
    tensors = open_checkpoint(demo).tensors
    weights = {name: read_rows_f32(info).reshape(info.shape) for name, info in tensors.items()}
    pack_checkpoint(demo, target, weights, packing)


def _exported(format_name: FormatName, demo: Path, target: Path) -> None:
    """Export the demo with statistics of its own, so that channels are scaled and the router is compensated."""
    gguf, imatrix = target.with_suffix(".gguf"), target.with_suffix(".imatrix.gguf")
    run_plan(plan_conversion(demo, OUTPUT_TYPES["q8_0"]), gguf, make_row_encoder(load_libggml()), n_threads=2)
    command = [sys.executable, "-m", "qwenctl", "imatrix", gguf, "-o", imatrix, "--chunks", "8", "--quiet"]
    subprocess.run(command, check=True)
    write_plan(plan(ExportRequest(demo, format_name, imatrix)), target, force=True)


SOURCES: Mapping[str, Callable[[Path, Path], None]] = {
    "awq exported": partial(_exported, "awq"),
    "gptq exported": partial(_exported, "gptq"),
    "awq by hand": partial(_packed_by_hand, Packing("awq", group_size=128)),
    "gptq by hand": partial(_packed_by_hand, Packing("gptq", group_size=128, symmetric=True)),
    "asymmetric gptq_v2 by hand, groups in mixed order": partial(
        _packed_by_hand, Packing("gptq", group_size=64, checkpoint_format="gptq_v2", desc_act=True)
    ),
}
"""Checkpoints to be tried, each written from the demo into a folder."""

# vLLM reads no GPTQ but symmetric.
PAIRS = [
    (source, loader)
    for source in SOURCES
    for loader in N_PACKED
    if not (source.startswith("asymmetric gptq") and loader == "vllm")
]


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Return held-out text of the demo, i32 (8, 256)."""
    return np.load(ROOT / "tests" / "data" / "demo_reference.npz")["ids"].astype(np.int32)


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest, demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the source that a test names."""
    target = tmp_path_factory.mktemp("checkpoint")
    SOURCES[request.param](demo_folder, target)
    return target


@pytest.fixture(scope="module")
def our_nll(checkpoint: Path, tokens: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the mean negative log-probability of every token but the first of each sequence, by llama.cpp."""
    out = tmp_path_factory.mktemp("decoded") / "f32.gguf"
    run_plan(plan_conversion(checkpoint, OUTPUT_TYPES["f32"]), out, make_row_encoder(load_libggml()), n_threads=2)
    losses = []
    for row, logits in zip(tokens, sequence_logits(out, tokens), strict=True):
        scores = logits[:-1].astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        losses.append(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(row) - 1), row[1:]])
    return float(np.mean(losses))


@pytest.mark.parametrize(("checkpoint", "loader"), PAIRS, indirect=["checkpoint"])
def test_perplexity_is_ours(
    checkpoint: Path, loader: str, our_nll: float, tokens: np.ndarray, user_cache: Path, tmp_path: Path
) -> None:
    theirs = _score(_interpreter(loader, user_cache), loader, checkpoint, tokens, tmp_path)
    perplexity, ours = math.exp(theirs["mean_nll"]), math.exp(our_nll)
    _LOG.info(
        "%s: perplexity %.4f, ours %.4f: %+.3f %%", theirs["loader"], perplexity, ours, perplexity / ours * 100 - 100
    )
    assert theirs["n_tokens"] == tokens[:, 1:].size
    assert sum(theirs["packed"].values()) == N_PACKED[loader], theirs
    assert abs(perplexity / ours - 1) < TOLERANCE, (theirs, ours)


def _interpreter(loader: str, cache: Path) -> Path:
    python = find_python(loader, cache)
    if python is None:
        pytest.skip(f"the environment {loader} is not there: `make test-interop` makes it, with network")
    if loader == "vllm" and "amx_tile" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("vLLM runs 4-bit experts on processors with AMX only")
    return python


def _score(python: Path, loader: str, checkpoint: Path, tokens: np.ndarray, folder: Path) -> dict[str, Any]:
    np.save(folder / "tokens.npy", tokens)
    script = ROOT / "scripts" / "interop" / f"score_with_{loader}.py"
    arguments = [str(python), str(script), str(checkpoint), str(folder / "tokens.npy"), str(folder / "out.json")]
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(folder)}
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found
