"""Where the matrices of an expert lie in its slot, in each of ggml's arrangements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from quant.ggml_types import GGML_TYPES
from qwenctl.moe.expert_map import ExpertTensor, Kind, MoeLayer
from qwenctl.moe.slot_layout import LayoutMaker
from qwenctl.services.expert_offload import open_ggml


@pytest.fixture(scope="module")
def maker() -> Iterator[LayoutMaker]:
    made = LayoutMaker(open_ggml())
    yield made
    made.close()


def _tensor(kind: Kind, type_name: str, n_in: int, n_out: int) -> ExpertTensor:
    kind_of = GGML_TYPES[type_name]
    n_bytes = n_in * n_out // kind_of.block_weights * kind_of.block_bytes
    return ExpertTensor(f"blk.0.ffn_{kind}_exps.weight", kind, 0, kind_of, n_in, n_out, 4, n_bytes, 0, 0)


def _layer(type_name: str = "F32", n_embd: int = 64, n_ff: int = 32) -> MoeLayer:
    gate, up = (_tensor(kind, type_name, n_embd, n_ff) for kind in ("gate", "up"))
    return MoeLayer(0, (gate, up, _tensor("down", type_name, n_ff, n_embd)))


def test_plain_is_the_files_bytes_with_down_on_a_page_of_its_own(maker: LayoutMaker) -> None:
    layout = maker.layout(_layer(), "plain")
    assert [(one.kind, one.offset_bytes, one.n_bytes) for one in layout.matrices] == [
        ("gate", 0, 8192),
        ("up", 8192, 8192),
        ("down", 16384, 8192),
    ]
    assert (layout.slot_bytes, layout.n_embd, layout.n_ff) == (24576, 64, 32)
    assert layout.is_plain
    assert layout.joins_gate_and_up


def test_what_does_not_fill_pages_is_padded(maker: LayoutMaker) -> None:
    layout = maker.layout(_layer(n_embd=32, n_ff=24), "plain")  # 3,072 bytes each
    assert [one.offset_bytes for one in layout.matrices] == [0, 3072, 8192]
    assert layout.slot_bytes == 12288


def test_merged_gate_and_up_are_one_matrix(maker: LayoutMaker) -> None:
    layer = MoeLayer(3, (_tensor("gate_up", "F32", 64, 64), _tensor("down", "F32", 32, 64)))
    layout = maker.layout(layer, "plain")
    assert [(one.kind, one.offset_bytes) for one in layout.matrices] == [("gate_up", 0), ("down", 16384)]
    assert (layout.n_embd, layout.n_ff, layout.joins_gate_and_up) == (64, 32, True)


def test_gate_and_up_of_different_types_are_two_products(maker: LayoutMaker) -> None:
    gate, _, down = _layer("Q8_0", 256, 256).tensors
    layer = MoeLayer(0, (gate, _tensor("up", "F16", 256, 256), down))
    assert not maker.layout(layer, "plain").joins_gate_and_up


def test_equal_layers_have_equal_layouts(maker: LayoutMaker) -> None:
    layer = _layer()
    assert maker.layout(layer, "plain") == maker.layout(replace(layer, index=7), "plain")


@pytest.mark.parametrize("name", ["repack", "amx"])
def test_rearranged_forms_are_as_large_as_ggml_says(maker: LayoutMaker, name: str) -> None:
    if name not in maker.available():
        pytest.skip(f"this CPU has no layout {name}")
    layout = maker.layout(_layer("Q4_K", 512, 256), name)
    assert not layout.is_plain
    assert layout.joins_gate_and_up
    assert layout.slot_bytes % 4096 == 0
    ends = [one.offset_bytes + one.n_bytes for one in layout.matrices]
    starts = [one.offset_bytes for one in layout.matrices[1:]]
    assert all(end <= start for end, start in zip(ends, starts, strict=False))
    assert ends[-1] <= layout.slot_bytes
    assert all(one.n_bytes >= one.file_bytes for one in layout.matrices)


@pytest.mark.parametrize("name", ["repack", "amx"])
def test_a_type_that_ggml_does_not_rearrange_stays_plain(maker: LayoutMaker, name: str) -> None:
    if name not in maker.available():
        pytest.skip(f"this CPU has no layout {name}")
    layer = _layer("F32")
    assert maker.layout(layer, name) == replace(maker.layout(layer, "plain"), name=name)
