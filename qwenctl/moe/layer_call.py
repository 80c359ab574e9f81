"""What llama.cpp asks of an expert layer: reads a split's graph of ggml into plain values.

The usual form, one call a layer (views left out):

    MUL_MAT_ID gate  ─┐
    MUL_MAT_ID up    ─┴► GLU ─► MUL_MAT_ID down          or MUL_MAT_ID gate_up ─► GLU ─► MUL_MAT_ID down

all with the same ids, an i32 view (n_used, n_tokens) of the router's sorting, rows far apart, and the same x: f32
(n_embd, 1, n_tokens). Where that sorting (ARGSORT, all experts of a token, best first) lies before us, not a copy of
the view from another device, the experts that were not chosen follow those that were. What has another form is `None`
here. Knows nothing of where experts are.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field
from typing import Any

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.ggml_calls import at

_OP = abi.GGML_OP
_VIEWS = frozenset(_OP[name] for name in ("NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"))
_NAME = re.compile(rb"blk\.(\d+)\.ffn_(gate|up|gate_up|down)_exps\.weight")
_FLOAT_BYTES = _ID_BYTES = 4


@dataclass(slots=True)
class LayerCall:
    """One layer, one batch.

    Attributes:
        layer: index of the layer in the model.
        n_embd: floats of a row of input and output.
        x: address of f32 rows (n_tokens, n_embd), one after the other.
        out: address of f32 rows (n_tokens × n_used, n_embd): the results of `down`, by token and place.
        ids: address of the routed ids.
        ids_row_bytes: from one token's ids to the next one's.
        n_ranked: experts in each row of ids, best first: the n_used routed ones at least, as a rule all of the layer.
        glu_params: op_params of the GLU node.
        products: the MUL_MAT_ID nodes by kind of weights.
        graph: address of the graph.
    """

    layer: int
    n_embd: int
    x: int
    out: int
    ids: int
    ids_row_bytes: int
    n_tokens: int
    n_used: int
    n_ranked: int
    glu_params: bytes
    graph: int
    products: dict[str, Any] = field(default_factory=dict)

    @property
    def x_bytes(self) -> int:
        """Bytes of the input."""
        return self.n_tokens * self.n_embd * _FLOAT_BYTES

    @property
    def out_covers_x(self) -> bool:
        """Whether the output lies over the input.

        llama.cpp's allocator gives `down` memory that is free once gate and up are computed: that of x, where it fits.
        """
        return self.x < self.out + self.x_bytes * self.n_used and self.out < self.x + self.x_bytes


def read_call(graph: int) -> LayerCall | None:
    """Return what the graph at an address computes, or None: it is not an expert layer of the usual form."""
    header = abi.ggml_cgraph.from_address(graph)
    addresses = (ctypes.c_void_p * header.n_nodes).from_address(header.nodes)
    nodes = [(address, at(address)) for address in addresses]
    work = [(address, node) for address, node in nodes if node.op not in _VIEWS]
    products = {}
    glu_address, glu = 0, None
    layers = set()
    for address, node in work:
        if node.op == _OP["MUL_MAT_ID"]:
            match = _NAME.fullmatch(at(node.src[0]).name)
            if match is None or match[2].decode() in products:
                return None
            layers.add(int(match[1]))
            products[match[2].decode()] = node
        elif node.op == _OP["GLU"] and glu is None:
            glu_address, glu = address, node
        else:
            return None
    if glu is None or len(layers) != 1 or set(products) not in ({"gate", "up", "down"}, {"gate_up", "down"}):
        return None
    down = products["down"]
    first = [node for kind, node in products.items() if kind != "down"]
    x, ids = at(first[0].src[1]), at(down.src[2])
    same_ids = all(at(node.src[2]).data == ids.data for node in first)
    same_x = all(at(node.src[1]).data == x.data for node in first)
    if not (same_ids and same_x and down.src[1] == glu_address and _plain_rows(x) and _plain_results(down)):
        return None
    return LayerCall(
        layer=layers.pop(),
        n_embd=x.ne[0],
        x=x.data,
        out=down.data,
        ids=ids.data,
        ids_row_bytes=ids.nb[1],
        n_tokens=ids.ne[1],
        n_used=ids.ne[0],
        n_ranked=_n_ranked(ids),
        glu_params=bytes(memoryview(glu.op_params).cast("B")),
        graph=graph,
        products=products,
    )


def _n_ranked(ids: Any) -> int:
    """Return how many experts each row of ids names, from the best on."""
    sorting = at(ids.view_src) if ids.view_src else None
    whole = (
        sorting is not None
        and sorting.op == _OP["ARGSORT"]
        and sorting.data == ids.data
        and sorting.nb[1] == ids.nb[1] == sorting.ne[0] * _ID_BYTES
    )
    return int(sorting.ne[0] if sorting is not None and whole else ids.ne[0])


def _plain_rows(x: Any) -> bool:
    """x is f32 (n_embd, 1, n_tokens) without gaps."""
    row_bytes = x.ne[0] * _FLOAT_BYTES
    return bool(x.type == abi.GGML_TYPE["F32"] and x.ne[1] == 1 and x.ne[3] == 1 and x.nb[0] == _FLOAT_BYTES) and (
        x.ne[2] == 1 or x.nb[2] == row_bytes
    )


def _plain_results(down: Any) -> bool:
    """The results are f32 (n_embd, n_used, n_tokens) without gaps."""
    row_bytes = down.ne[0] * _FLOAT_BYTES
    return bool(down.nb[0] == _FLOAT_BYTES and down.nb[1] == row_bytes and down.nb[2] == row_bytes * down.ne[1])
