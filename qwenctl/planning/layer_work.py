"""What one layer of a model reads and multiplies, for a token and for a cell of its context. Values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from qwenctl.moe.context_memory import kv_cache_bytes
from qwenctl.moe.model_size import layer_of
from qwenctl.planning.model import PlannedModel

_TOKENS_FOR_RATE = 256


@dataclass(frozen=True, slots=True)
class LayerWork:
    """One layer, or the output.

    Attributes:
        dense_bytes: read for every token, or once for many.
        dense_macs: multiplications with them, of a token.
        expert_bytes: of one expert.
        expert_macs: multiplications of a token in one expert.
        cell_bytes: of keys and values of one token in the cache.
        state_bytes: of a recurrent layer, of a sequence.
        attention_macs: of a token with one cell.
    """

    dense_bytes: float
    dense_macs: float
    expert_bytes: float = 0
    expert_macs: float = 0
    cell_bytes: float = 0
    state_bytes: float = 0
    attention_macs: float = 0


def layer_works(model: PlannedModel, kv_type: str) -> tuple[LayerWork, ...]:
    """Return the work of every layer; what contexts take is shared evenly among the layers."""
    shape = model.shape
    macs = _dense_weights(model)
    cache = kv_cache_bytes(shape, _TOKENS_FOR_RATE, 1, kv_type, kv_type) - shape.state_bytes
    share = (shape.n_layers if shape.n_attention_layers is None else shape.n_attention_layers) / shape.n_layers
    width = shape.n_compressed + shape.head_dim if shape.n_compressed else 2 * shape.head_dim
    experts = {} if model.experts is None else {layer.index: layer for layer in model.experts.layers}
    works = []
    for layer in range(shape.n_layers):
        one = experts.get(layer)
        works.append(
            LayerWork(
                dense_bytes=model.sizes.dense[layer],
                dense_macs=macs[layer],
                expert_bytes=one.expert_bytes if one else 0,
                expert_macs=sum(tensor.n_in * tensor.n_out for tensor in one.tensors) if one else 0,
                cell_bytes=cache / _TOKENS_FOR_RATE / shape.n_layers,
                state_bytes=2 * shape.state_bytes / shape.n_layers,
                attention_macs=shape.n_head * width * share,
            )
        )
    return tuple(works)


def output_work(model: PlannedModel) -> LayerWork:
    """Return the work of the output matrix."""
    name = "output.weight" if "output.weight" in model.outline.shapes else "token_embd.weight"
    return LayerWork(model.sizes.output, prod(model.outline.shapes[name]))


def _dense_weights(model: PlannedModel) -> Counter[int]:
    mapped = set() if model.experts is None else {t.name for one in model.experts.layers for t in one.tensors}
    counts: Counter[int] = Counter()
    for name, shape in model.outline.shapes.items():
        if name not in mapped and len(shape) > 1:
            counts[layer_of(name)] += prod(shape)
    return counts
