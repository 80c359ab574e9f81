"""What the tests of importance matrices share: a tiny model in F32 as a GGUF file, and readings of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import plan_conversion
from quant.gguf_read import GgufFile, read_gguf
from quant.imatrix import ImatrixEntry
from quant.libggml import load_libggml
from quant.pipeline import run_plan
from quant.recipe import OUTPUT_TYPES
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.activation_model import ActivationModel, ReadingOptions
from qwenctl.services.activation_probe import ActivationProbe
from qwenctl.services.activation_totals import ActivationTotals
from tests.tiny_checkpoint import TinyModel, write_checkpoint

MODEL = TinyModel(dtype="F32", vocab_size=320)
CHUNK_TOKENS = 64
STOCK = OffloadOptions(mode="off")


def write_model(folder: Path, output_type: str = "f32", model: TinyModel = MODEL) -> Path:
    """Write the model; 3 layers of 8 experts, 2 used, all rows 256 long."""
    source = write_checkpoint(folder / "source", model)
    out = folder / f"{output_type}.gguf"
    run_plan(plan_conversion(source, OUTPUT_TYPES[output_type]), out, make_row_encoder(load_libggml()), 1)
    return out


def random_chunks(n_chunks: int, seed: int = 0) -> list[list[int]]:
    """Return chunks of letters."""
    return np.random.default_rng(seed).integers(0, 256, (n_chunks, CHUNK_TOKENS)).tolist()


def measured_weights(gguf: GgufFile) -> dict[str, tuple[int, ...]]:
    """Return all matrices but the embeddings."""
    shapes = {name: info.shape for name, info in gguf.tensors.items()}
    return {name: shape for name, shape in shapes.items() if len(shape) >= 2 and name != "token_embd.weight"}


class Reading:
    """A model that has read chunks: what was added up, and which weights share an input."""

    def __init__(
        self,
        path: Path,
        chunks: Sequence[Sequence[int]],
        offload: OffloadOptions = STOCK,
        n_matrices: dict[str, int] | None = None,
        **more: Any,
    ) -> None:
        gguf = read_gguf(path)
        self.totals = ActivationTotals()
        self.totals.moments.n_matrices = n_matrices or {}
        probe = ActivationProbe(measured_weights(gguf), [self.totals.sums, self.totals.moments])
        options = ReadingOptions(CHUNK_TOKENS, n_threads=1, offload=offload, **more)
        with ActivationModel.open(gguf, options, probe) as model:
            self.members = dict(model.survey())
            self.placement = model.placement
            for start in range(0, len(chunks), model.n_sequences):
                model.read(chunks[start : start + model.n_sequences])

    @property
    def entries(self) -> dict[str, ImatrixEntry]:
        """The statistics of every weight."""
        return self.totals.sums.entries(self.members)
