"""Q4_K_M files at true layer shapes, written directly: no checkpoint, no conversion, a minute for 5 GB.

Header, names, types and padding are those that `qwenctl convert` would write. The weights are random, but three things
are as in trained models, or a cache of experts would meet work that no user has:

- The router's rows have spread norms: some experts are chosen far more often than others.
- Tokens lie on a ring. A token's embedding is  topic(place) + 0.7 noise,  with topic a sum of 8 harmonics, and the
  head's row of a token answers to the topic 1/384 of the ring before it. So greedy text walks around the ring: what
  consecutive tokens have in common changes slowly, and so does the set of experts in use.
- What attention and experts add to the residual stream is small beside the embedding, so this holds in every layer.

The first 256 columns of the stream hold the place without noise; nothing is added to them, and the head reads nothing
else. So the next token follows from the last one alone: all engines generate the same text and do the same work, and
none runs into the loops of random models. The text is therefore no evidence that an engine computed its layers right.
How the routing compares with published figures is measured by routing_facts.py.

The matrices of experts and attention are drawn row by row from a few thousand encoded rows, another draw each: experts
differ, and encoding costs nothing. Knows nothing of the engines that are measured.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from make_synthetic_moe import REPOSITORY, SHAPES, TOKENIZER_FILES, config
from numpy.typing import NDArray

from quant.architectures import EMBEDDINGS, OUTPUT, OUTPUT_NORM
from quant.chat_templates import read_chat_templates
from quant.codecs.native import encode_rows
from quant.ggml_types import GgmlType
from quant.gguf_write import GgufField, GgufLayout, GgufTensor, GgufValueType, PlacedTensor, plan_layout
from quant.hf_config import HfConfig, read_config
from quant.libggml import LibGgml, load_libggml
from quant.metadata import model_metadata
from quant.model_source import describe_source
from quant.recipe import OUTPUT_TYPES, RecipeModel, choose_types
from quant.tensor_names import TargetTensor
from quant.tokenizer import read_tokenizer

N_LAYERS = {"30b": 12, "235b": 4}
"""As many as make a file of 5 to 7 GB."""

_VERSION = 2  # part of the file's name: a change of the weights must not meet an older file
_N_VOCAB = 151936
_N_HARMONICS = 8
_RING_STEPS = 384  # tokens of greedy text once around
_NOISE = 0.7
_ROUTER_SPREAD = 0.35
_ROUTER_GAIN = 2.0
_HEAD_GAIN = 12.0
_BRANCH_GAIN = 0.25  # of what writes into the residual stream
_POOL_ROWS = 3072
_PLACE_COLUMNS = 256  # of the residual stream: a block of the K types
_TOKENS_A_PLACE = 8  # tokens that share a place on the ring: a row is encoded once for all of them
_CHUNK_ROWS = 1187  # of 151936 / 8 = 18992 = 16 x 1187
_WRITE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class SyntheticModel:
    """Which file: the shape's name in SHAPES, layers, and what tensors are aligned to in bytes."""

    shape: str
    n_layers: int
    alignment: int = 4096
    n_experts: int = 128
    n_vocab: int = _N_VOCAB

    @property
    def file_name(self) -> str:
        """The same for the same bytes."""
        return f"{self.shape}-{self.n_layers}x{self.n_experts}-v{self.n_vocab}-a{self.alignment}-{_VERSION}.gguf"


def ensure_model(model: SyntheticModel, folder: Path) -> Path:
    """Return the file in `folder`, written first where it is missing."""
    path = folder / model.file_name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        write_model(model, partial)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_model(model: SyntheticModel, path: Path) -> None:
    """Write the file; the same model gives the same bytes."""
    layout = plan_model(model)
    writer = _Writer(load_libggml(), np.random.default_rng(0))
    with path.open("wb") as file:
        file.write(layout.header)
        for tensor in layout.placed:
            file.write(b"\0" * (tensor.offset_bytes - file.tell()))
            for part in writer.parts(tensor):
                file.write(part.data)
        file.write(b"\0" * (layout.total_bytes - file.tell()))
        file.flush()
        os.fsync(file.fileno())


def plan_model(model: SyntheticModel) -> GgufLayout:
    """Return header and places: what a conversion to q4_k_m of such a checkpoint would have."""
    folder = Path(tempfile.mkdtemp(prefix="bench-offload-"))
    try:
        for name in TOKENIZER_FILES:
            if (REPOSITORY / "qwenctl" / "demo" / name).is_file():
                shutil.copyfile(REPOSITORY / "qwenctl" / "demo" / name, folder / name)
        described = config(SHAPES[model.shape], model.n_layers, model.n_experts, model.n_vocab)
        (folder / "config.json").write_text(json.dumps(described))
        hf_config = read_config(folder)
        targets = [TargetTensor(name, shape, ()) for name, shape in _tensors(hf_config)]
        source = describe_source(folder, hf_config, targets, f"synthetic/{model.shape}-{model.n_layers}-layers")
        tokenizer = read_tokenizer(folder, hf_config.n_vocab)
        metadata = model_metadata(hf_config, tokenizer, read_chat_templates(folder), source)
    finally:
        shutil.rmtree(folder)
    output = OUTPUT_TYPES["q4_k_m"]
    metadata["general.file_type"] = GgufField(GgufValueType.UINT32, output.ftype_id)
    metadata["general.quantization_version"] = GgufField(GgufValueType.UINT32, 2)
    recipe = RecipeModel(
        architecture=hf_config.architecture.gguf_name,
        n_layers=hf_config.n_layers,
        n_experts=hf_config.n_experts,
        n_heads=hf_config.n_heads,
        n_kv_heads=hf_config.n_kv_heads,
    )
    types = choose_types(output, recipe, [(target.name, target.shape) for target in targets], has_imatrix=False)
    tensors = [GgufTensor(target.name, target.shape, types[target.name]) for target in targets]
    return plan_layout(metadata, tensors, model.alignment)


def _tensors(hf_config: HfConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape in the order of a converted file."""
    patterns = [("", EMBEDDINGS)]
    for layer in range(hf_config.n_layers):
        patterns += [(f"blk.{layer}.", pattern) for pattern in hf_config.architecture.layer_tensors]
    patterns += [("", OUTPUT_NORM), ("", OUTPUT)]
    for prefix, pattern in patterns:
        yield prefix + pattern.target, tuple(hf_config.lengths[name] for name in pattern.shape)


class _Writer:
    """Makes the bytes of tensors, in any order of calls that is always the same."""

    def __init__(self, lib: LibGgml, random: np.random.Generator) -> None:
        self._lib = lib
        self._random = random
        self._pools: dict[tuple[str, int, float], NDArray[np.uint8]] = {}

    def parts(self, tensor: PlacedTensor) -> Iterator[NDArray[np.uint8]]:
        """Yield the tensor's bytes piece by piece."""
        if tensor.name in ("token_embd.weight", "output.weight"):
            yield from self._ring(tensor)
        elif len(tensor.shape) == 1:
            weights = 1 + 0.1 * self._random.standard_normal(tensor.shape, dtype=np.float32)
            if tensor.name == "output_norm.weight":
                weights[:_PLACE_COLUMNS], weights[_PLACE_COLUMNS:] = 1, 0
            yield weights.view(np.uint8)
        elif "ffn_gate_inp" in tensor.name:
            yield self._router(tensor.shape)
        else:
            yield from self._drawn(tensor)

    def _router(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        n_experts, n_columns = shape
        gains = np.exp(_ROUTER_SPREAD * self._random.standard_normal((n_experts, 1), dtype=np.float32))
        weights = self._random.standard_normal(shape, dtype=np.float32) * gains
        return (weights * np.float32(_ROUTER_GAIN / n_columns**0.5)).view(np.uint8)

    def _drawn(self, tensor: PlacedTensor) -> Iterator[NDArray[np.uint8]]:
        """Yield rows drawn from the pool of their type and length, whose last one is zero."""
        n_columns = tensor.shape[-1]
        is_branch = "ffn_down" in tensor.name or "attn_output" in tensor.name
        pool = self._pool(tensor.type, n_columns, _BRANCH_GAIN if is_branch else 1.0)
        n_rows = int(np.prod(tensor.shape[:-1]))
        rows = self._random.integers(len(pool) - 1, size=n_rows)
        if is_branch:  # its rows are the columns of the residual stream, those of every expert
            rows.reshape(-1, tensor.shape[-2])[:, :_PLACE_COLUMNS] = len(pool) - 1
        n_together = max(1, _WRITE_BYTES // pool.shape[1])
        for first in range(0, n_rows, n_together):
            yield pool[rows[first : first + n_together]]

    def _pool(self, ggml_type: GgmlType, n_columns: int, gain: float) -> NDArray[np.uint8]:
        key = (ggml_type.name, n_columns, gain)
        if key not in self._pools:
            weights = self._random.standard_normal((_POOL_ROWS, n_columns), dtype=np.float32)
            weights *= gain / n_columns**0.5
            weights[-1] = 0
            self._pools[key] = encode_rows(self._lib, ggml_type, weights)
        return self._pools[key]

    def _ring(self, tensor: PlacedTensor) -> Iterator[NDArray[np.uint8]]:
        """Yield embeddings or head: distinct rows by place, each token given one of them by chance."""
        n_vocab, n_columns = tensor.shape
        n_places = max(1, n_vocab // _TOKENS_A_PLACE)
        basis = _basis(n_columns)
        is_head = tensor.name == "output.weight"
        bounds = [*range(0, n_places, _CHUNK_ROWS), n_places]

        def encoded(bound: tuple[int, int]) -> NDArray[np.uint8]:
            places = np.arange(*bound) / n_places
            rows = _topic(places - 1 / _RING_STEPS, basis) if is_head else _topic(places, basis)
            if is_head:
                rows *= np.float32(_HEAD_GAIN / _PLACE_COLUMNS)
                rows[:, _PLACE_COLUMNS:] = 0
            else:
                noise = np.random.default_rng((2, bound[0])).standard_normal(rows.shape, dtype=np.float32)
                rows[:, _PLACE_COLUMNS:] += np.float32(_NOISE) * noise[:, _PLACE_COLUMNS:]
            return encode_rows(self._lib, tensor.type, rows)

        with ThreadPoolExecutor() as threads:
            table = np.concatenate(list(threads.map(encoded, pairwise(bounds))))
        place_of = np.random.default_rng(3).permutation(np.arange(n_vocab) % n_places)
        n_together = max(1, _WRITE_BYTES // table.shape[1])
        for first in range(0, n_vocab, n_together):
            yield table[place_of[first : first + n_together]]


def _basis(n_columns: int) -> NDArray[np.float32]:
    """Return f32 (2 harmonics, n_columns): a direction each for sine and cosine, orthogonal in the place's columns."""
    basis = np.random.default_rng(1).standard_normal((2 * _N_HARMONICS, n_columns))
    orthogonal, _ = np.linalg.qr(basis[:, :_PLACE_COLUMNS].T)
    basis[:, :_PLACE_COLUMNS] = orthogonal.T * _PLACE_COLUMNS**0.5
    return (basis / _N_HARMONICS**0.5).astype(np.float32)


def _topic(places: NDArray[np.float64], basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return f32 (n_places, n_columns) of about unit variance; `places` in turns of the ring."""
    angles = 2 * np.pi * places[:, None] * np.arange(1, _N_HARMONICS + 1)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) @ basis
