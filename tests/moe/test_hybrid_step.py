"""The demo model with its experts split over two RPC devices and the CPU, against the CPU alone.

Each split runs in a process of its own: ggml aborts the process of a device that goes away, and keeps those it knows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quant.gguf_read import read_gguf
from tests.conftest import ROOT
from tests.services.rpc_server import running_rpc_server

N_DECODE, N_PROMPT, N_TOKENS = 192, 512, 192 + 4 * 512
N_EXPERTS, N_LAYERS, N_USED = 16, 4, 4

EVEN, ODD = [0, 2], [1, 3]
SPLITS: dict[str, dict[str, Any]] = {
    "every expert on a device": {"places": [[0, EVEN, 16], [1, ODD, 16]], "n_slots": 16},
    "half of them, a few in RAM": {"places": [[0, EVEN, 8], [1, ODD, 8]], "n_slots": 4},
    "front and back, a quarter": {"places": [[0, [0, 1], 4], [1, [2, 3], 4]], "n_slots": 8},
    "two slots a layer": {"places": [[0, EVEN, 2], [1, ODD, 2]], "n_slots": 16},
    "one layer without slots": {"places": [[0, [0], 6], [1, ODD, 10]], "n_slots": 6},
    "computed where it was just sent": {
        "places": [[0, EVEN, 6], [1, ODD, 6]],
        "n_slots": 16,
        "uploads_now": True,
    },
    "prompts pass through": {
        "places": [[0, EVEN, 6], [1, ODD, 3]],
        "n_slots": 16,
        "uploads_now": True,
        "is_near": True,
    },
    "prompts pass through from a part in RAM": {
        "places": [[0, EVEN, 6], [1, ODD, 3]],
        "n_slots": 8,
        "uploads_now": True,
        "is_near": True,
    },
    "a product an expert": {"places": [[0, EVEN, 8], [1, ODD, 8]], "n_slots": 6, "per_expert": True},
}


@dataclass(frozen=True)
class Outcome:
    logits: npt.NDArray[np.float32]
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[str]]:
    with running_rpc_server() as one, running_rpc_server() as other:
        yield [one.endpoint, other.endpoint]


@pytest.fixture(scope="module")
def tokens(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of tokens that the demo finds likely enough: words of its own vocabulary, in runs."""
    n_vocab = len(read_gguf(demo_gguf).metadata["tokenizer.ggml.tokens"])
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.minimum(generator.zipf(1.3, N_TOKENS), n_vocab - 200))
    return path


@pytest.fixture(scope="module")
def on_cpu(demo_gguf: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome(demo_gguf, tokens, tmp_path_factory.mktemp("cpu"), {"places": [], "n_slots": 16}, [])


def outcome(gguf: Path, tokens: Path, folder: Path, split: dict[str, Any], endpoints: list[str]) -> Outcome:
    job = {
        "per_expert": False,
        "uploads_now": False,
        "is_near": False,
        "n_decode": N_DECODE,
        "n_prompt": N_PROMPT,
    } | split
    job |= {"gguf": str(gguf), "tokens": str(tokens), "endpoints": endpoints}
    (folder / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "tests.moe.hybrid_run", str(folder / "job.json"), str(folder / "out.npz")],
        cwd=ROOT,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "out.npz") as saved:
        return Outcome(saved["logits"], json.loads(str(saved["facts"])))


def mean_kld(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Kullback-Leibler divergence of `other` from `reference`, in nats, mean over rows."""
    p, q = (log_softmax(rows.astype(np.float64)) for rows in (reference, other))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def log_softmax(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = rows - rows.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_experts_on_devices_change_nothing_that_matters(
    demo_gguf: Path, tokens: Path, on_cpu: Outcome, endpoints: list[str], tmp_path: Path, name: str
) -> None:
    split = SPLITS[name]
    result = outcome(demo_gguf, tokens, tmp_path, split, endpoints)
    assert result.logits.shape == on_cpu.logits.shape == (N_TOKENS, on_cpu.logits.shape[1])
    kld = mean_kld(on_cpu.logits, result.logits)
    same_top = float((on_cpu.logits.argmax(axis=1) == result.logits.argmax(axis=1)).mean())
    n_different = int((on_cpu.logits != result.logits).any(axis=1).sum())
    print(f"{name}: KLD {kld:.2e}, same top {same_top:.4f}, {n_different} rows differ, {result.facts}")  # noqa: T201
    assert kld <= 5e-5
    assert same_top >= 0.997
    check_that_devices_took_part(result.facts, split)


def check_that_devices_took_part(facts: dict[str, Any], split: dict[str, Any]) -> None:
    done = facts["devices"]
    assert done["notes"] == []
    for device, (_, positions, planned) in zip(done["devices"], split["places"], strict=True):
        assert device["n_slots"] == planned * len(positions)
        assert device["n_uploads"] >= 0.6 * device["n_slots"]
        assert device["n_runs"] >= 50
        assert device["n_pairs"] >= 500
    assert done["shared_steps"] >= 20
    assert done["overlapped_steps"] >= 1  # the device was still computing when the CPU had done its part
    assert (done["uploads_now"] > 0) == split.get("uploads_now", False)
    assert facts["token_steps"] == N_DECODE * N_LAYERS
    assert facts["batch_steps"] == (N_TOKENS - N_DECODE) // N_PROMPT * N_LAYERS
