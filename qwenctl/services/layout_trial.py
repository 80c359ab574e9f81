"""Whether the built library multiplies rightly in each arrangement of weights that it offers, tried in a child process.

A library compiled for another CPU dies (SIGILL) or computes nonsense, and only where its faster instructions are used.
So each layout computes the products of random experts that the plain one computes, too, where it may die.

    python -m qwenctl.services.layout_trial       {"layouts": ["plain", …]}, then {"layout": …, "error": …} for each
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.codecs import native
from quant.ggml_types import GGML_TYPES
from quant.libggml import load_libggml
from qwenctl.moe.expert_bench import BenchSize, ExpertBench
from qwenctl.moe.expert_loader import ExpertLoader
from qwenctl.moe.expert_map import ExpertMap, ExpertTensor, Kind, MoeLayer
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.measure_experts import operations_of
from qwenctl.moe.slot_layout import LayoutMaker, LayoutName

TIME_LIMIT_S = 60.0
# Activations become 8-bit integers in all of them, and products of integers are exact; the order of sums differs.
MOST_ERROR = 1e-4
_WIDTH, _N_EXPERTS = 256, 4
_SHAPES = ((1, 4), (32, 2))  # tokens an expert, experts
_KINDS: tuple[Kind, ...] = ("gate", "up", "down")


@dataclass(frozen=True, slots=True)
class LayoutTrial:
    """How one layout came out: its error in energy beside the plain one, or what is wrong with it."""

    name: str
    error: float | None = None
    problem: str | None = None


def try_layouts(command: list[str] | None = None, time_limit_s: float = TIME_LIMIT_S) -> tuple[LayoutTrial, ...]:
    """Try the layouts that this build and CPU offer.

    Args:
        command: of the child, for tests.
        time_limit_s: for all.
    """
    command = command or [sys.executable, "-P", "-m", "qwenctl.services.layout_trial"]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=time_limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        return _trials(error.stdout or b"", f"had not computed a product after {time_limit_s:g} s")
    died = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit code {child.returncode}"
    return _trials(child.stdout, f"ends the process ({died})")


def _trials(said: bytes, end: str) -> tuple[LayoutTrial, ...]:
    """Return what a child found out; the first layout that it did not come to is the one that ended it."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.endswith(b"}")]
    if not lines:
        return (LayoutTrial("plain", None, end),)
    trials = [_judged(line["layout"], line["error"]) for line in lines[1:]]
    missing = lines[0]["layouts"][len(trials) :]
    trials += [LayoutTrial(name, None, end if name == missing[0] else "not tried") for name in missing]
    return tuple(trials)


def _judged(name: str, error: float | None) -> LayoutTrial:
    if error is None or error > MOST_ERROR:
        return LayoutTrial(name, error, "computes nonsense")
    return LayoutTrial(name, error)


def _errors(ggml: Ggml, maker: LayoutMaker) -> Iterator[tuple[str, float]]:
    """Yield the largest error of each layout's operations."""
    with tempfile.TemporaryDirectory(prefix="qwenctl-doctor-") as folder:
        experts = _random_experts(Path(folder) / "experts")
        expected = [next(_results(ggml, maker, experts, "plain", shape)) for shape in _SHAPES]
        for name in maker.available():
            errors = [
                float(((found - reference) ** 2).sum() / (reference**2).sum())
                for shape, reference in zip(_SHAPES, expected, strict=True)
                for found in _results(ggml, maker, experts, name, shape)
            ]
            yield name, max(error if math.isfinite(error) else math.inf for error in errors)


def _results(
    ggml: Ggml, maker: LayoutMaker, experts: ExpertMap, name: LayoutName, shape: tuple[int, int]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield float32 (pairs, width) of each operation."""
    layout = maker.layout(experts.layers[0], name)
    with ExitStack() as stack:
        loader = stack.enter_context(closing(ExpertLoader(experts, 1)))
        size = BenchSize(_N_EXPERTS, shape[0] * shape[1], _N_EXPERTS)
        bench = stack.enter_context(closing(ExpertBench(ggml, maker, loader, 0, layout, size)))
        cpu = ggml.ggml_backend_cpu_init()
        stack.callback(ggml.ggml_backend_free, cpu)
        for operation in operations_of(layout):
            way = bench.way(operation, *shape)
            way.turn(0)
            bench.results[:] = np.nan
            ggml.graph_compute(cpu, way.address)
            yield bench.results.copy()


def _random_experts(path: Path) -> ExpertMap:
    """Write experts in Q4_K; return where they lie."""
    kind = GGML_TYPES["Q4_K"]
    values = np.random.default_rng(7).standard_normal((3 * _N_EXPERTS * _WIDTH, _WIDTH), dtype=np.float32)
    data = np.asarray(native.encode_rows(load_libggml(), kind, values)).tobytes()
    path.write_bytes(data)
    expert_bytes = _WIDTH * kind.row_bytes(_WIDTH)
    tensors = tuple(
        ExpertTensor(
            name, name, 0, kind, _WIDTH, _WIDTH, _N_EXPERTS, expert_bytes, 0, index * _N_EXPERTS * expert_bytes
        )
        for index, name in enumerate(_KINDS)
    )
    return ExpertMap((path,), (len(data),), "", _N_EXPERTS, _N_EXPERTS, _WIDTH, (MoeLayer(0, tensors),), 0)


def main() -> None:
    """Try, and say what came out, a line at a time."""
    ggml = Ggml(load_libggml().path.parent)
    with closing(LayoutMaker(ggml)) as maker:
        _say({"layouts": maker.available()})
        for name, error in _errors(ggml, maker):
            _say({"layout": name, "error": error if math.isfinite(error) else None})


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
