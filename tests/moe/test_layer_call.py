"""What a split's graph asks for: the usual form is read into values, any other is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of, at
from qwenctl.moe.graph_tensors import F32, I32, set_nodes
from qwenctl.moe.layer_call import read_call
from qwenctl.services.expert_offload import open_ggml

N_EMBD, N_FF, N_EXPERTS, N_USED, N_TOKENS = 32, 16, 4, 2, 3
_SWIGLU = 2  # enum ggml_glu_op


class Layer:
    """A layer's graph as llama.cpp makes it: gate, up, GLU, down; not one address leads to data."""

    def __init__(self, ggml: Ggml) -> None:
        self.context = context = TensorContext(ggml, 20, (8, 8))
        self.x = context.tensor(F32, N_EMBD, 1, N_TOKENS)
        self.ids = context.tensor(I32, N_USED, N_TOKENS)
        self.x.data, self.ids.data, self.ids.nb[1] = 0x1000, 0x2000, 4 * N_EXPERTS
        self.nodes = [self._product(ggml, "gate", self.x), self._product(ggml, "up", self.x)]
        glu = ggml.ggml_glu_split(context.handle, *map(address_of, self.nodes), _SWIGLU)
        self.nodes += [at(glu), self._product(ggml, "down", at(glu))]
        self.nodes[3].data = 0x3000

    def _product(self, ggml: Ggml, kind: str, rows: Any) -> Any:
        n_in, n_out = (N_FF, N_EMBD) if kind == "down" else (N_EMBD, N_FF)
        weights = self.context.tensor(F32, n_in, n_out, N_EXPERTS)
        weights.name = f"blk.7.ffn_{kind}_exps.weight".encode()
        arguments = (address_of(weights), address_of(rows), address_of(self.ids))
        return at(ggml.ggml_mul_mat_id(self.context.handle, *arguments))

    def graph(self) -> int:
        graph = self.context.graph(8)
        set_nodes(self.context, graph, self.nodes)
        return address_of(graph)


@pytest.fixture
def layer() -> Iterator[Layer]:
    made = Layer(open_ggml())
    yield made
    made.context.free()


def test_the_usual_form(layer: Layer) -> None:
    graph = layer.graph()
    call = read_call(graph)
    assert (call.layer, call.x, call.ids, call.out, call.graph) == (7, 0x1000, 0x2000, 0x3000, graph)
    assert (call.n_tokens, call.n_used, call.ids_row_bytes) == (N_TOKENS, N_USED, 16)
    assert {kind: address_of(node) for kind, node in call.products.items()} == {
        "gate": address_of(layer.nodes[0]),
        "up": address_of(layer.nodes[1]),
        "down": address_of(layer.nodes[3]),
    }
    assert int.from_bytes(call.glu_params[:4], "little") == _SWIGLU
    assert len(call.glu_params) == 64


def _other_layer(layer: Layer) -> None:
    at(layer.nodes[1].src[0]).name = b"blk.8.ffn_up_exps.weight"


def _gate_twice(layer: Layer) -> None:
    at(layer.nodes[1].src[0]).name = b"blk.7.ffn_gate_exps.weight"


def _other_weights(layer: Layer) -> None:
    at(layer.nodes[0].src[0]).name = b"blk.7.ffn_norm.weight"


def _without_glu(layer: Layer) -> None:
    del layer.nodes[2]


def _without_down(layer: Layer) -> None:
    del layer.nodes[3]


def _other_input(layer: Layer) -> None:
    layer.nodes[1].src[1] = address_of(layer.nodes[3])


def _other_ids(layer: Layer) -> None:
    ids = layer.context.tensor(I32, N_USED, N_TOKENS)
    ids.data = 0x9000
    layer.nodes[0].src[2] = address_of(ids)


def _rows_with_gaps(layer: Layer) -> None:
    layer.x.nb[2] += 4


def _results_with_gaps(layer: Layer) -> None:
    layer.nodes[3].nb[2] += 4


def _down_of_something_else(layer: Layer) -> None:
    layer.nodes[3].src[1] = address_of(layer.nodes[0])


@pytest.mark.parametrize(
    "change",
    [
        _other_layer,
        _gate_twice,
        _other_weights,
        _without_glu,
        _without_down,
        _other_input,
        _other_ids,
        _rows_with_gaps,
        _results_with_gaps,
        _down_of_something_else,
    ],
)
def test_other_forms_are_refused(layer: Layer, change: Callable[[Layer], None]) -> None:
    assert read_call(layer.graph()) is not None
    change(layer)
    assert read_call(layer.graph()) is None
