"""Measuring experts: every way of this machine, each computing what the others do, within its memory and its time."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.expert_bench import BenchSize, ExpertBench, Way
from qwenctl.moe.expert_loader import ExpertLoader
from qwenctl.moe.expert_map import ExpertMap, ExpertTensor, Kind, MoeLayer, read_expert_map
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.measure_experts import TOKENS, _Timer, kind_name, measure_experts, operations_of, shape_of
from qwenctl.moe.slot_layout import LayoutMaker, SlotLayout, SlotMatrix
from qwenctl.services.expert_offload import open_ggml
from qwenctl.units import MIB

MEMORY_BYTES = 24 * MIB
TICK_S = 2**-10  # sums of it are exact


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    return open_ggml()


@pytest.fixture(scope="module")
def maker(ggml: Ggml) -> Iterator[LayoutMaker]:
    with closing(LayoutMaker(ggml)) as made:
        yield made


@pytest.fixture(scope="module")
def experts(demo_gguf: Path) -> ExpertMap:
    """The demo: two layers of Q4_K, two whose `down` is Q6_K; 16 experts of 256×256, 4 a token."""
    found = read_expert_map(read_gguf(demo_gguf))
    assert found is not None
    return found


def ticking(*ticks: int, cpu: float) -> Iterator[tuple[float, float]]:
    """The times of a clock that is looked at before and after each call; calls last `ticks` in turn."""
    now = 0.0
    for tick in itertools.cycle(ticks):
        yield now, cpu * now
        now += tick * TICK_S
        yield now, cpu * now


def measure(
    ggml: Ggml, experts: ExpertMap, *ticks: int, share: float = 3, memory_bytes: int = MEMORY_BYTES, cpu: float = 1.0
):
    with closing(LayoutMaker(ggml)) as maker:
        shape = shape_of(experts, maker)
    n_points = len(TOKENS) * sum(len(kind.ways) for kind in shape.kinds)
    return measure_experts(
        ggml,
        experts,
        1,
        budget_s=n_points * share * TICK_S,
        memory_bytes=memory_bytes,
        clock=ticking(*ticks, cpu=cpu).__next__,
    )


def test_every_layout_operation_and_number_of_tokens_of_each_kind(
    ggml: Ggml, maker: LayoutMaker, experts: ExpertMap
) -> None:
    """Calls of one tick in shares of three: 3 experts of 4 tokens fit in a share, then one expert."""
    rates = measure(ggml, experts, 1)
    shape = shape_of(experts, maker)
    assert [(kind.name, kind.n_layers, kind.macs) for kind in shape.kinds] == [
        ("Q4_K", 2, 3 * 256 * 256),
        ("Q4_K/Q6_K", 2, 3 * 256 * 256),
    ]
    found = {(one.type, one.layout, one.operation, one.n_tokens): one.macs_s for one in rates}
    assert len(found) == len(rates)
    assert found.keys() == {(kind.name, *way, n) for kind in shape.kinds for way in kind.ways for n in TOKENS}
    for (_, _, _, n_tokens), macs_s in found.items():
        n_pairs = {1: 4, 4: 12, 32: 32, 128: 128, 512: 512}[n_tokens]
        assert macs_s == n_pairs * 3 * 256 * 256 / TICK_S


def test_a_slow_machine_measures_fewer_tokens(ggml: Ggml, experts: ExpertMap) -> None:
    rates = measure(ggml, experts, 1, share=1)
    assert {one.n_tokens for one in rates} == {1, 4}


def test_a_machine_that_others_use_gives_no_rates(ggml: Ggml, experts: ExpertMap) -> None:
    assert measure(ggml, experts, 1, 2, 4, 8) == ()


def test_threads_that_do_not_get_the_cpu_give_no_rates(ggml: Ggml, experts: ExpertMap) -> None:
    """Calls may be equally slow; that somebody else has the CPU shows in what this process used of it."""
    assert measure(ggml, experts, 1, cpu=0.7) == ()
    assert measure(ggml, experts, 1, cpu=0.8)


def test_a_few_calls_that_were_held_up_do_not_matter(ggml: Ggml, experts: ExpertMap) -> None:
    rates = measure(ggml, experts, 1, 1, 50)
    assert {one.macs_s for one in rates if one.n_tokens == 1} == {4 * 3 * 256 * 256 / TICK_S}


def test_too_little_memory_gives_no_rates(ggml: Ggml, experts: ExpertMap) -> None:
    assert measure(ggml, experts, 1, memory_bytes=100_000) == ()


def test_a_truncated_file_is_an_error(ggml: Ggml, demo_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copyfile(demo_gguf, path)
    experts = read_expert_map(read_gguf(path))
    assert experts is not None
    with path.open("r+b") as file:
        file.truncate(experts.layers[0].tensors[0].offset_bytes + 1000)
    with pytest.raises(ExpertReadFailed, match="expert 0 of layer 0"):
        measure(ggml, experts, 1)


@pytest.mark.parametrize("position", [0, 3])
def test_every_way_computes_the_same(ggml: Ggml, maker: LayoutMaker, experts: ExpertMap, position: int) -> None:
    """Relative error in energy: all quantize activations to 8 bits; only the order of sums differs."""
    size = BenchSize(6, 96, 6)
    for n_tokens, n_experts in ((1, 4), (3, 5), (32, 3)):
        n_pairs = n_tokens * n_experts
        expected = computed(ggml, maker, experts, position, "plain", "id", size, n_tokens, n_experts, 1)[:n_pairs]
        assert np.abs(expected).max(axis=1).min() > 0
        for layout in maker.available():
            for operation in operations_of(maker.layout(experts.layers[position], layout)):
                found = computed(ggml, maker, experts, position, layout, operation, size, n_tokens, n_experts, 1)
                error = ((found[:n_pairs] - expected) ** 2).sum() / (expected**2).sum()
                assert error < 1e-4, (layout, operation, n_tokens)


def test_calls_go_around_the_slots(ggml: Ggml, maker: LayoutMaker, experts: ExpertMap) -> None:
    """Six slots, four of them a call: the fourth call has those of the first; two experts fill six slots."""
    for operation in ("id", "expert"):
        ran = [
            computed(ggml, maker, experts, 0, "plain", operation, BenchSize(6, 8, 6), 1, 4, turn)[:4]
            for turn in (0, 1, 3)
        ]
        assert (ran[0] == ran[2]).all()
        assert (ran[0][:2] == ran[1][2:]).all()  # slots 0 and 1 come again as the third and fourth
        assert (ran[0] != ran[1]).any(axis=1).all()
        repeated = computed(ggml, maker, experts, 0, "plain", operation, BenchSize(6, 8, 2), 1, 4, 0)[:4]
        assert (repeated == ran[0][[0, 1, 0, 1]]).all()


def computed(
    ggml: Ggml,
    maker: LayoutMaker,
    experts: ExpertMap,
    position: int,
    name: str,
    operation: str,
    size: BenchSize,
    n_tokens: int,
    n_experts: int,
    turn: int,
) -> np.ndarray:
    with ExitStack() as stack:
        loader = stack.enter_context(closing(ExpertLoader(experts, 1)))
        layout = maker.layout(experts.layers[position], name)  # type: ignore[arg-type]
        bench = stack.enter_context(closing(ExpertBench(ggml, maker, loader, position, layout, size)))
        cpu = ggml.ggml_backend_cpu_init()
        stack.callback(ggml.ggml_backend_free, cpu)
        ggml.ggml_backend_cpu_set_n_threads(cpu, 1)
        way = bench.way(operation, n_tokens, n_experts)
        assert way.n_pairs == n_tokens * n_experts
        way.turn(turn)
        assert ggml.graph_compute(cpu, way.address) == 0
        return bench.results.copy()


@pytest.mark.parametrize(
    ("calls", "is_good"),
    [
        ([(0.001, 0.001), (0.0011, 0.001), (0.3, 0.1)], True),  # short ones: the other thread's time comes a tick late
        ([(0.02, 0.013), (0.021, 0.013), (0.5, 0.9)], False),  # both were held up alike
        ([(0.1, 0.19), (0.11, 0.2)], True),
        ([(0.3, 0.3), (0.31, 0.31)], False),
        ([(0.1, 0.2), (0.13, 0.26), (0.17, 0.34), (0.23, 0.4)], False),  # no two agree
    ],
)
def test_points_that_count(calls: list[tuple[float, float]], is_good: bool) -> None:
    """Calls as (seconds, seconds of CPU) of two threads, repeated as long as the point lasts."""
    now = (0.0, 0.0)
    looks: list[tuple[float, float]] = []
    for wall_s, cpu_s in calls:
        looks += [now, (now[0] + wall_s, now[1] + cpu_s)]
        now = looks[-1]
    share_s = sum(wall_s for wall_s, _ in calls) / 4
    share_s *= 3.9 if is_good or len(calls) < 4 else 1  # ends after the last call
    timer = _Timer(lambda graph: 0, iter(looks).__next__, 2, share_s, 0)
    found = timer.call_s(Way(0, 1, lambda turn: None))
    assert found == (pytest.approx(calls[0][0]) if is_good else None)
    assert timer.n_bad == (0 if is_good else 1)


# --- what does not need ggml -----------------------------------------------------------------------------------------


def layer_of(*types: str, n_embd: int = 2048, n_ff: int = 768, n_experts: int = 128) -> MoeLayer:
    names: tuple[Kind, ...] = ("gate", "up", "down") if len(types) == 3 else ("gate_up", "down")
    tensors = []
    for kind, type_name in zip(names, types, strict=True):
        n_in, n_out = (n_ff, n_embd) if kind == "down" else (n_embd, n_ff * (2 if kind == "gate_up" else 1))
        entry = GGML_TYPES[type_name]
        n_bytes = n_out * entry.row_bytes(n_in)
        tensors.append(ExpertTensor(kind, kind, 0, entry, n_in, n_out, n_experts, n_bytes, 0, 0))
    return MoeLayer(0, tuple(tensors))


@pytest.mark.parametrize(
    ("types", "name"),
    [
        (("Q4_K", "Q4_K", "Q4_K"), "Q4_K"),
        (("Q4_K", "Q4_K", "Q6_K"), "Q4_K/Q6_K"),
        (("Q6_K", "Q6_K", "Q4_K"), "Q6_K/Q4_K"),
        (("Q4_K", "Q5_K", "Q5_K"), "Q4_K,Q5_K/Q5_K"),
        (("Q4_K", "Q4_K"), "Q4_K"),
        (("Q4_K", "Q6_K"), "Q4_K/Q6_K"),
    ],
)
def test_names_of_kinds(types: tuple[str, ...], name: str) -> None:
    assert kind_name(layer_of(*types)) == name


def slots(name: str, *types: int, buffer_type: int = 0) -> SlotLayout:
    kinds: tuple[Kind, ...] = ("gate", "up", "down")
    matrices = tuple(
        SlotMatrix(kind, type_id, 256, 256, 1 << 16, index << 16, 1 << 16, buffer_type)
        for index, (kind, type_id) in enumerate(zip(kinds, types, strict=True))
    )
    return SlotLayout(name, matrices, 3 << 16)  # type: ignore[arg-type]


def test_operations_of_layouts() -> None:
    assert operations_of(slots("plain", 12, 12, 14)) == ("id", "expert")
    assert operations_of(slots("plain", 12, 13, 14)) == ("id",)
    assert operations_of(slots("repack", 12, 12, 14, buffer_type=1)) == ("id", "expert")
    assert operations_of(slots("amx", 12, 12, 14, buffer_type=1)) == ("expert",)
    assert operations_of(slots("amx", 12, 13, 14, buffer_type=1)) == ()
    assert operations_of(slots("amx", 12, 12, 14)) == ("id", "expert")


@given(
    memory_bytes=st.integers(0, 200 * MIB),
    slot_bytes=st.integers(1, 40_000).map(lambda n: n * 4096),
    n_embd=st.integers(1, 32).map(lambda n: n * 256),
    n_experts=st.integers(1, 512),
    n_used=st.integers(1, 16),
    n_layers=st.integers(1, 100),
)
def test_no_more_memory_than_allowed(
    memory_bytes: int, slot_bytes: int, n_embd: int, n_experts: int, n_used: int, n_layers: int
) -> None:
    n_used = min(n_used, n_experts)
    matrix = SlotMatrix("down", 12, n_embd, n_embd, 0, 0, 0, 0)
    layout = SlotLayout("plain", (matrix,), slot_bytes)
    layer = replace(layer_of("Q4_K", "Q4_K", n_embd=n_embd, n_ff=n_embd), index=0)
    experts = ExpertMap((), (), "qwen3moe", n_experts, n_used, n_embd, (layer,) * n_layers, 0)
    size = BenchSize.within(memory_bytes, layout, experts)
    if size is None:
        assert slot_bytes + n_used * 24 * n_embd > 0.1 * memory_bytes
        return
    assert size.n_slots * slot_bytes + size.n_rows * 24 * n_embd <= memory_bytes
    assert size.n_rows >= n_used
    assert 1 <= size.n_read <= min(size.n_slots, n_experts)


def test_true_shapes_get_as_much_as_caches_do_not_hold() -> None:
    for types, n_embd, n_ff, least_bytes in (
        (("Q4_K", "Q4_K", "Q6_K"), 2048, 768, 64 * MIB),
        (("Q4_K", "Q4_K", "Q6_K"), 4096, 1536, 64 * MIB),
        (("Q4_K", "Q4_K", "Q4_K"), 4096, 14336, 64 * MIB),
    ):
        layer = layer_of(*types, n_embd=n_embd, n_ff=n_ff)
        experts = ExpertMap((), (), "qwen3moe", 128, 8, n_embd, (layer,) * 48, 0)
        matrices = tuple(SlotMatrix(one.kind, 0, one.n_in, one.n_out, 0, 0, 0, 0) for one in layer.tensors)
        size = BenchSize.within(128 * MIB, SlotLayout("plain", matrices, layer.expert_bytes), experts)
        assert size is not None
        assert size.n_slots * layer.expert_bytes >= least_bytes, n_ff
