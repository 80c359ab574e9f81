"""Routers made to be fed with the input of the layer before: which layers have one, and its rows.

What an expert layer gets is x_p = x̂ · w_p: the residual stream, divided by its root mean square, times the weights of
the layer's norm. One layer on, the residual stream is nearly the same. So what the next layer's router will compute,
W_{p+1} (x̂ · w_{p+1}), is foretold by a product with x_p:

    W_{p+1} (x̂ · w_{p+1})  ≈  (W_{p+1} · w_{p+1} / w_p) x_p        row by row, folded once when the model is opened

Rows are stored in Q8_0, or F16 where norms of very different size share a block. That is measured: rows that would
rank experts by rounding errors are not used, and there is no prediction for that layer.

Norms and gates of architectures: models/*.cpp of llama.cpp 0c1e57098. Knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quant.codecs.native import decode_rows, encode_rows
from quant.errors import QuantError
from quant.ggml_types import GGML_TYPES, GgmlType
from quant.gguf_read import GgufFile
from quant.libggml import LibGgml
from quant.tensor_info import TensorInfo
from quant.tensor_read import TensorReader
from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.expert_map import ExpertMap

FloatArray = npt.NDArray[np.float32]

_FFN_NORM, _POST_NORM = "ffn_norm", "post_attention_norm"
# Where the experts and their router get the output of one RMS norm without a bias, and nothing else happens to it.
NORM_OF: dict[str, str] = {
    **dict.fromkeys(
        (
            "bailingmoe",
            "bailingmoe2",
            "deepseek",
            "deepseek2",
            "deepseek32",
            "dots1",
            "ernie4_5-moe",
            "exaone-moe",
            "glm-dsa",
            "granitemoe",
            "hunyuan-moe",
            "lfm2moe",
            "llada-moe",
            "llama",
            "mellum",
            "mimo2",
            "minimax-m2",
            "mistral3",
            "olmoe",
            "qwen2moe",
            "qwen3moe",
            "qwen3vlmoe",
            "rnd1",
        ),
        _FFN_NORM,
    ),
    **dict.fromkeys(("glm4moe", "gpt-oss", "qwen35moe", "qwen3next"), _POST_NORM),
}
_SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
_SOFTMAX_WITH_BIAS = frozenset({"ernie4_5-moe"})  # all others that select by a bias add it to sigmoids
_MOST_ERROR = 0.05  # of the logits' spread, by rounding
_LARGEST = 60000.0  # F16 goes to 65504


@dataclass(frozen=True, slots=True)
class RouterPair:
    """The tensors from which the router of layer `position` + 1 is foretold; positions are those of the expert map."""

    position: int
    router: TensorInfo
    norm: TensorInfo  # of this layer
    next_norm: TensorInfo
    logit_bias: TensorInfo | None
    selection_bias: TensorInfo | None


@dataclass(frozen=True, slots=True)
class FoldedRouter:
    """A router to be fed with the input of layer `position`.

    Attributes:
        position: of the layer whose input is to be given.
        type: of the rows.
        rows: uint8 (n_experts, row bytes).
        logit_bias: f32 (n_experts,), added to the product.
        selection_bias: f32 (n_experts,), added to what the gate makes of that, before experts are ranked.
        sigmoid: whether that gate is the sigmoid, not the softmax.
    """

    position: int
    type: GgmlType
    rows: npt.NDArray[np.uint8]
    logit_bias: FloatArray | None
    selection_bias: FloatArray | None
    sigmoid: bool


def router_pairs(gguf: GgufFile, experts: ExpertMap) -> list[RouterPair]:
    """Return the pairs of neighbouring layers whose second one can be foretold from the first."""
    norm = NORM_OF.get(experts.architecture)
    if norm is None:
        return []
    pairs = (_pair(gguf, experts, position, norm) for position in range(len(experts.layers) - 1))
    return [pair for pair in pairs if pair is not None]


def folded_routers(lib: LibGgml, gguf: GgufFile, experts: ExpertMap) -> Iterator[FoldedRouter]:
    """Read and fold the routers of all pairs, one after the other; those that rounding would spoil are left out.

    Raises:
        ExpertReadFailed: a tensor cannot be read.
    """
    sigmoid = _gate_is_sigmoid(gguf, experts.architecture)
    with TensorReader() as reader:
        for pair in router_pairs(gguf, experts):
            try:
                folded = _fold(lib, reader, pair, sigmoid)
            except QuantError as error:
                raise ExpertReadFailed(str(error), "the model's file was changed: open it again") from error
            if folded is not None:
                yield folded


def _pair(gguf: GgufFile, experts: ExpertMap, position: int, norm: str) -> RouterPair | None:
    here, there = experts.layers[position], experts.layers[position + 1]

    def tensor(layer: int, name: str, shape: tuple[int, ...]) -> TensorInfo | None:
        info = gguf.tensors.get(f"blk.{layer}.{name}")
        return info if info is not None and info.shape == shape else None

    n_embd, n_experts = experts.n_embd, there.n_experts
    router = tensor(there.index, "ffn_gate_inp.weight", (n_experts, n_embd))
    first = tensor(here.index, f"{norm}.weight", (n_embd,))
    second = tensor(there.index, f"{norm}.weight", (n_embd,))
    if there.index != here.index + 1 or router is None or first is None or second is None:
        return None
    logit_bias = tensor(there.index, "ffn_gate_inp.bias", (n_experts,))
    selection_bias = tensor(there.index, "exp_probs_b.bias", (n_experts,))
    return RouterPair(position, router, first, second, logit_bias, selection_bias)


def _gate_is_sigmoid(gguf: GgufFile, architecture: str) -> bool:
    gate = gguf.metadata.get(f"{architecture}.expert_gating_func", _SIGMOID)
    return architecture not in _SOFTMAX_WITH_BIAS and gate == _SIGMOID


def _fold(lib: LibGgml, reader: TensorReader, pair: RouterPair, sigmoid: bool) -> FoldedRouter | None:
    router = _weights(lib, reader, pair.router)
    norm, next_norm = _weights(lib, reader, pair.norm)[0], _weights(lib, reader, pair.next_norm)[0]
    wanted = router * next_norm
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.where(norm == 0, 0, next_norm / norm)
        folded = np.clip(router * ratio, -_LARGEST, _LARGEST).astype(np.float32)
    if not np.isfinite(wanted).all() or not np.isfinite(folded).all():
        return None
    for name in ("Q8_0", "F16"):
        stored_as = GGML_TYPES[name]
        if not stored_as.divides(router.shape[1]):
            continue
        rows = encode_rows(lib, stored_as, folded)
        error = decode_rows(lib, stored_as, rows, router.shape[1]) * norm - wanted
        by_input = folded * _input_error(stored_as, norm)
        # Elements of x̂ are about 1 in size, so this is the error of logits as a share of the logits.
        if np.hypot(np.linalg.norm(error), np.linalg.norm(by_input)) <= _MOST_ERROR * np.linalg.norm(wanted):
            biases = [
                None if bias is None else _weights(lib, reader, bias)[0]
                for bias in (pair.logit_bias, pair.selection_bias)
            ]
            return FoldedRouter(pair.position, stored_as, rows, biases[0], biases[1], sigmoid)
    return None


def _input_error(stored_as: GgmlType, norm: FloatArray) -> FloatArray:
    """Return f32 (n_embd,): by how much ggml rounds elements of x, whose sizes are about those of the norm's weights.

    For products with Q8_0 it stores x in Q8_0 too: steps of 1/127 of the largest of 32, which is some 2.5 deviations.
    """
    if stored_as.name == "F16":
        return (np.abs(norm) / 4096).astype(np.float32)
    largest = np.abs(norm).reshape(-1, stored_as.block_weights).max(axis=1) * 2.5
    return np.repeat(largest / 127 / np.sqrt(12), stored_as.block_weights).astype(np.float32)


def _weights(lib: LibGgml, reader: TensorReader, info: TensorInfo) -> FloatArray:
    """Return a tensor of any type as f32 (n_rows, n_columns)."""
    stored = np.empty(info.n_bytes, np.uint8)
    reader.read_bytes(info, 0, stored)
    return decode_rows(lib, GGML_TYPES[info.dtype], stored.reshape(info.n_rows, -1), info.n_columns)
