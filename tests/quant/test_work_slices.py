"""Slices cover every tensor once, in order, and stay below their bound."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from quant.ggml_types import GGML_TYPES
from quant.gguf_write import GgufTensor, plan_layout
from quant.tensor_info import TensorInfo
from quant.tensor_names import SourceRows, TargetTensor
from quant.work_slices import cut_slices

N_COLUMNS = 256


@st.composite
def targets(draw: st.DrawFn) -> list[TargetTensor]:
    """Tensors made of one to four pieces of other tensors."""
    found = []
    for index in range(draw(st.integers(1, 4))):
        sources = []
        for piece in range(draw(st.integers(1, 4))):
            first, n_rows, rest = draw(st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(0, 9)))
            shape = (first + n_rows + rest, N_COLUMNS)
            info = TensorInfo(f"{index}.{piece}", "BF16", shape, Path("x"), 0, 2 * shape[0] * N_COLUMNS)
            sources.append(SourceRows(info, first, n_rows))
        n_rows = sum(source.n_rows for source in sources)
        found.append(TargetTensor(f"t{index}", (n_rows, N_COLUMNS), tuple(sources)))
    return found


@given(targets(), st.integers(1, 20 * N_COLUMNS))
def test_slices_are_the_file(tensors: list[TargetTensor], max_weights: int) -> None:
    q4_k = GGML_TYPES["Q4_K"]
    layout = plan_layout({}, [GgufTensor(tensor.name, tensor.shape, q4_k) for tensor in tensors], 4096)
    slices = cut_slices(tensors, layout.placed, max_weights)
    for index, (tensor, place) in enumerate(zip(tensors, layout.placed, strict=True)):
        own = [work for work in slices if work.tensor == index]
        end = place.offset_bytes
        rows = []
        for work in own:
            assert work.offset_bytes == end
            assert work.n_bytes == work.source.n_rows * q4_k.row_bytes(N_COLUMNS)
            assert work.n_weights <= max(max_weights, N_COLUMNS)
            end += work.n_bytes
            rows += [(work.source.info.name, work.source.first_row + i) for i in range(work.source.n_rows)]
        assert end == place.offset_bytes + place.n_bytes
        assert rows == [(s.info.name, s.first_row + i) for s in tensor.sources for i in range(s.n_rows)]
