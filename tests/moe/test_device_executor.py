"""Experts in slots of RPC devices on loopback: the same bits as the CPU backend, side by side with it, within a budget.

Each device is another process running llama.cpp's RPC server on its CPU, so the kernels are the same on both sides.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.codecs import native
from quant.ggml_types import GGML_TYPES
from quant.libggml import load_libggml
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe import hybrid_devices
from qwenctl.moe.costs import Costs
from qwenctl.moe.device_costs import measured_costs
from qwenctl.moe.device_places import DevicePlace
from qwenctl.moe.device_pools import open_pools, slots_within
from qwenctl.moe.device_prompt import PromptCall
from qwenctl.moe.device_tier import DeviceTier
from qwenctl.moe.devices import Device, DeviceCalls, add_rpc_server, device_memory, find_devices
from qwenctl.moe.expert_map import ExpertTensor, Kind, MoeLayer
from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of, at
from qwenctl.moe.host_memory import HostMemory, PinnedPages, host_buffer_type
from qwenctl.moe.prompt_space import PromptSpace
from tests.conftest import ROOT
from tests.services.rpc_server import RpcServer, running_rpc_server

N_EMBD, N_FF, N_EXPERTS = 256, 512, 8
GLU_PARAMS = np.array([abi.GGML_GLU_OP["SWIGLU"]] + [0] * 15, dtype=np.int32).tobytes()
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RpcServer, RpcServer]]:
    with running_rpc_server() as one, running_rpc_server() as other:
        yield one, other


@pytest.fixture(scope="module")
def calls() -> DeviceCalls:
    return DeviceCalls(Ggml(load_libggml().path.parent))


@pytest.fixture(scope="module")
def devices(calls: DeviceCalls, servers: tuple[RpcServer, RpcServer]) -> tuple[Device, Device]:
    (one,), (other,) = (add_rpc_server(calls, server.endpoint, register=False) for server in servers)
    return one, other


class Experts:
    """A layer of random experts, and what ggml's CPU backend makes of them."""

    def __init__(self, type_name: str, merged: bool = False, seed: int = 0, n_experts: int = N_EXPERTS) -> None:
        shapes: list[tuple[Kind, int, int]] = [("gate", N_EMBD, N_FF), ("up", N_EMBD, N_FF), ("down", N_FF, N_EMBD)]
        if merged:
            shapes = [("gate_up", N_EMBD, 2 * N_FF), ("down", N_FF, N_EMBD)]
        generator = np.random.default_rng(seed)
        kind_of = GGML_TYPES[type_name]
        self.weights, tensors = [], []
        for kind, n_in, n_out in shapes:
            values = generator.standard_normal((n_experts * n_out, n_in), dtype=np.float32) / np.float32(16)
            self.weights.append(encoded(values, type_name).reshape(n_experts, -1))
            size = self.weights[-1].shape[1]
            tensors.append(ExpertTensor(f"{kind}", kind, 0, kind_of, n_in, n_out, n_experts, size, 0, 0))
        self.layer = MoeLayer(0, tuple(tensors))

    def addresses(self, expert: int) -> list[int]:
        return [int(matrix.ctypes.data) + expert * matrix.shape[1] for matrix in self.weights]

    def on_cpu(self, ggml: Ggml, x: Floats, ids: npt.NDArray[np.int32]) -> Floats:
        """x (n_tokens, n_embd), ids (n_tokens, n_used) → (n_tokens, n_used, n_embd), as llama.cpp's graph has it."""
        n_tokens, n_used = ids.shape
        context = TensorContext(ggml, 32, (32,))
        keep: list[Any] = []

        def placed(tensor: Any, data: Any = None) -> Any:
            held = data if data is not None else np.empty(int(tensor.nb[3] * tensor.ne[3]), dtype=np.uint8)
            keep.append(held)
            tensor.data = held.ctypes.data
            return tensor

        def product(weights: Any, rows: Any, ids: Any) -> Any:
            return placed(at(ggml.ggml_mul_mat_id(context.handle, *map(address_of, (weights, rows, ids)))))

        *first, down = [
            placed(context.tensor(t.type.type_id, t.n_in, t.n_out, t.n_experts), matrix)
            for t, matrix in zip(self.layer.tensors, self.weights, strict=True)
        ]
        rows = placed(context.tensor(0, N_EMBD, 1, n_tokens), x)
        routed = placed(context.tensor(abi.GGML_TYPE["I32"], n_used, n_tokens), np.ascontiguousarray(ids))
        halves = products = [product(weights, rows, routed) for weights in first]
        if len(halves) == 1:
            whole = halves[0]
            halves = [context.tensor(0, N_FF, n_used, n_tokens) for _ in range(2)]
            for index, half in enumerate(halves):
                half.nb[1], half.nb[2], half.nb[3] = whole.nb[1], whole.nb[2], whole.nb[3]
                half.data = whole.data + index * N_FF * 4
        hidden = placed(at(ggml.ggml_glu_split(context.handle, *map(address_of, halves), 2)))
        out = product(down, hidden, routed)
        graph = context.graph(32)
        expand = ctypes.CDLL(str(ggml.base_path)).ggml_build_forward_expand
        for node in (*products, out):  # the halves of a merged product do not say what they are halves of
            expand(ctypes.c_void_p(address_of(graph)), ctypes.c_void_p(address_of(node)))
        backend = ggml.ggml_backend_cpu_init()
        try:
            assert ggml.graph_compute(backend, address_of(graph)) == 0
        finally:
            ggml.ggml_backend_free(backend)
        result: Floats = keep[-1].view(np.float32).reshape(n_tokens, n_used, N_EMBD).copy()
        context.free()
        return result


experts_of = functools.cache(Experts)  # encoding takes longer than what is done with it


def encoded(values: Floats, type_name: str) -> npt.NDArray[np.uint8]:
    if type_name == "F32":
        return values.reshape(-1).view(np.uint8)
    return np.asarray(native.encode_rows(load_libggml(), GGML_TYPES[type_name], values)).reshape(-1).view(np.uint8)


def inputs(n_tokens: int, n_used: int, seed: int, among: int = N_EXPERTS) -> tuple[Floats, npt.NDArray[np.int32]]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n_tokens, N_EMBD), dtype=np.float32)
    ids = np.stack([generator.permutation(among)[:n_used] for _ in range(n_tokens)]).astype(np.int32)
    return x, ids


def through(tier: DeviceTier, position: int, x: Floats, ids: npt.NDArray[np.int32], out: Floats) -> int:
    """Compute the pairs that lie on the device; returns how many."""
    slot_of = tier.slot_of[position]
    assert slot_of is not None
    flat = ids.reshape(-1)
    pairs = [pair for pair, expert in enumerate(flat) if slot_of[expert] >= 0]
    tokens = None if len(ids) == 1 else [pair // ids.shape[1] for pair in pairs]
    run = tier.start(position, [slot_of[flat[pair]] for pair in pairs], tokens, x.ctypes.data, GLU_PARAMS)
    tier.finish(position, run, out.ctypes.data, pairs)
    return len(pairs)


def slots_of(tier: DeviceTier, position: int, ids: npt.NDArray[np.int32]) -> list[int]:
    slot_of = tier.slot_of[position]
    assert slot_of is not None
    return [slot_of[expert] for expert in ids.reshape(-1)]


BUDGET_BYTES = 64 << 20


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("type_name", ["F32", "Q4_K", "Q8_0"])
def test_experts_on_devices_give_the_bits_of_the_cpu(
    calls: DeviceCalls, devices: tuple[Device, Device], type_name: str, merged: bool
) -> None:
    layers = [experts_of(type_name, merged, seed) for seed in range(2)]
    places = [DevicePlace(device, (position,), BUDGET_BYTES) for position, device in enumerate(devices)]
    tier = DeviceTier(calls, [one.layer for one in layers], places)
    try:
        for position, experts in enumerate(layers):
            for expert in (6, 1, 4, 3, 0):  # so that no expert lies in the slot of its own number
                tier.upload(position, expert, experts.addresses(expert))
        tier.check_integrity()
        for n_tokens, n_used, seed in ((1, 4, 1), (1, 8, 2), (1, 4, 3), (3, 4, 4), (37, 4, 5)):
            for position, experts in enumerate(layers):
                x, ids = inputs(n_tokens, n_used, seed)
                out = np.full((n_tokens * n_used, N_EMBD), np.nan, dtype=np.float32)
                n_pairs = through(tier, position, x, ids, out)
                expected = experts.on_cpu(calls.ggml, x, ids).reshape(-1, N_EMBD)
                there = np.isin(ids.reshape(-1), (6, 1, 4, 3, 0))
                assert 0 < n_pairs == there.sum()
                assert np.array_equal(out[there], expected[there])
                assert np.isnan(out[~there]).all()
        assert [facts.n_uploads for facts in tier.stats()] == [5, 5]
        assert [facts.n_runs for facts in tier.stats()] == [5, 5]
    finally:
        tier.close()


def test_more_pairs_than_one_round_takes(calls: DeviceCalls, devices: tuple[Device, Device]) -> None:
    experts = experts_of("Q8_0", False, 0)
    tier = DeviceTier(calls, [experts.layer], [DevicePlace(devices[0], (0,), BUDGET_BYTES)], chunk_pairs=8)
    try:
        executor = tier._used[0].executor
        executor.max_pairs = 20
        for expert in range(N_EXPERTS):
            tier.upload(0, expert, experts.addresses(expert))
        x, ids = inputs(13, 4, 9)
        out = np.zeros((13 * 4, N_EMBD), dtype=np.float32)
        assert through(tier, 0, x, ids, out) == 52
        assert np.array_equal(out, experts.on_cpu(calls.ggml, x, ids).reshape(-1, N_EMBD))
    finally:
        tier.close()


def test_an_upload_replaces_the_coldest_and_is_used_only_when_it_has_arrived(
    calls: DeviceCalls, devices: tuple[Device, Device]
) -> None:
    experts = experts_of("Q8_0", False, 3)
    budget = 3 * experts.layer.expert_bytes + (8 << 20)
    tier = DeviceTier(calls, [experts.layer], [DevicePlace(devices[0], (0,), budget)], chunk_pairs=8)
    try:
        pool, slot_of = tier.pool(0), tier.slot_of[0]
        assert pool is not None
        assert slot_of is not None
        pool.slots.resize(3)
        for expert in (0, 1, 2):
            tier.upload(0, expert, experts.addresses(expert))
        pool.slots.use([0, 2])
        writers = tier.begin_upload(0, 5, keep=[0])
        assert slot_of[1] == slot_of[5] == -1
        with pytest.raises(ValueError, match="must stay"):  # the one on its way is not driven out
            tier.begin_upload(0, 6, keep=[0, 2])
        threads = [
            threading.Thread(target=writer, args=(address,))
            for writer, address in zip(writers, experts.addresses(5), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tier.end_upload(0, 5)
        assert slot_of[5] >= 0
        x = inputs(1, 1, 0)[0]
        ids = np.array([[5, 0, 2]], dtype=np.int32)
        out = np.zeros((3, N_EMBD), dtype=np.float32)
        assert through(tier, 0, x, ids, out) == 3
        assert np.array_equal(out, experts.on_cpu(calls.ggml, x, ids)[0])
        tier.begin_upload(0, 7, keep=[0, 5])
        tier.end_upload(0, 7, arrived=False)
        assert slot_of[7] == -1
        tier.check_integrity()
    finally:
        tier.close()


def test_queueing_waits_for_no_device(
    calls: DeviceCalls, devices: tuple[Device, Device], servers: tuple[RpcServer, RpcServer]
) -> None:
    """With both devices held still, work is queued on both and the CPU computes; then the devices do their part."""
    layers = [experts_of("Q4_K", False, seed) for seed in range(2)]
    places = [DevicePlace(device, (position,), BUDGET_BYTES) for position, device in enumerate(devices)]
    tier = DeviceTier(calls, [one.layer for one in layers], places)
    try:
        for position, experts in enumerate(layers):
            for expert in range(N_EXPERTS):
                tier.upload(position, expert, experts.addresses(expert))
        for n_tokens in (1, 100):
            x, ids = inputs(n_tokens, 8, n_tokens)
            pairs = list(range(ids.size))
            tokens = [pair // 8 for pair in pairs] if n_tokens > 1 else None
            expected = [experts.on_cpu(calls.ggml, x, ids).reshape(-1, N_EMBD) for experts in layers]
            for position in range(2):  # the first time a graph is made, the device is asked for its tensors' sizes
                through(tier, position, x, ids, np.zeros_like(expected[0]))
            with held_still(*servers):
                slots = [slots_of(tier, position, ids) for position in range(2)]
                runs = [tier.start(i, slots[i], tokens, x.ctypes.data, GLU_PARAMS) for i in range(2)]
                again = [experts.on_cpu(calls.ggml, x, ids).reshape(-1, N_EMBD) for experts in layers]
                computed_s = time.perf_counter()
            for position, run in enumerate(runs):
                out = np.zeros_like(expected[position])
                tier.finish(position, run, out.ctypes.data, pairs)
                assert run.started_s < run.queued_s < computed_s < run.finished_s
                assert np.array_equal(out, expected[position])
                assert np.array_equal(again[position], expected[position])
    finally:
        tier.close()


@contextmanager
def held_still(*servers: RpcServer) -> Iterator[None]:
    for server in servers:
        server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGCONT)


def test_after_an_error_elsewhere_a_run_is_abandoned(calls: DeviceCalls, devices: tuple[Device, Device]) -> None:
    experts = experts_of("F32", False, 0)
    tier = DeviceTier(calls, [experts.layer], [DevicePlace(devices[1], (0,), BUDGET_BYTES)])
    try:
        for expert in range(2):
            tier.upload(0, expert, experts.addresses(expert))
        x, ids = inputs(1, 2, 0, among=2)
        slot_of = tier.slot_of[0]
        assert slot_of is not None
        slots = [slot_of[expert] for expert in ids[0]]
        run = tier.start(0, slots, None, x.ctypes.data, GLU_PARAMS)
        with pytest.raises(ValueError, match="already"):
            tier.start(0, slots, None, x.ctypes.data, GLU_PARAMS)
        tier.abandon()
        out = np.zeros((2, N_EMBD), dtype=np.float32)
        with pytest.raises(ValueError, match="not the run"):
            tier.finish(0, run, out.ctypes.data, [0, 1])
        assert through(tier, 0, x, ids, out) == 2
        assert np.array_equal(out, experts.on_cpu(calls.ggml, x, ids)[0])
    finally:
        tier.close()


def test_devices_of_servers_say_what_they_are(
    calls: DeviceCalls, devices: tuple[Device, Device], servers: tuple[RpcServer, RpcServer]
) -> None:
    assert add_rpc_server(calls, servers[0].endpoint, register=False) == (devices[0],)
    assert not set(devices) & set(find_devices(calls))
    for device, server in zip(devices, servers, strict=True):
        assert (device.kind, device.description) == ("gpu", server.endpoint)
        memory = device_memory(calls, device)
        assert memory.name == f"{device.name}[{server.endpoint}]"
        assert 0 < memory.free_bytes <= memory.total_bytes


def test_registered_devices_are_found_once() -> None:
    """In a process of its own: what is registered stays, and every model loaded later would ask for it."""
    with running_rpc_server() as server:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _FIND_DEVICES, server.endpoint],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert done.stdout.split() == ["0", "1", "1", "RPC0", server.endpoint]


_FIND_DEVICES = """
import sys
from tests.moe.test_device_executor import *
calls = DeviceCalls(Ggml(load_libggml().path.parent))
print(len(find_devices(calls)))
for _ in range(2):
    add_rpc_server(calls, sys.argv[1])
    print(len(find_devices(calls)))
print(find_devices(calls)[0].name, find_devices(calls)[0].description)
"""


class Stingy(DeviceCalls):
    """A device that gives no more than so many bytes in all, as a full one does."""

    def __init__(self, calls: DeviceCalls, n_bytes: int) -> None:
        super().__init__(calls.ggml)
        self.left, self._sizes = n_bytes, dict[int, int]()
        alloc, free = self.ggml_backend_buft_alloc_buffer, self.ggml_backend_buffer_free

        def take(buffer_type: int, size: int) -> int | None:
            if size > self.left:
                return None
            buffer: int = alloc(buffer_type, size)
            self._sizes[buffer] = size
            self.left -= size
            return buffer

        def give(buffer: int) -> None:
            self.left += self._sizes.pop(buffer)
            free(buffer)

        self.ggml_backend_buft_alloc_buffer, self.ggml_backend_buffer_free = take, give


def test_a_device_that_refuses_memory_gets_fewer_slots_or_none(
    calls: DeviceCalls, devices: tuple[Device, Device]
) -> None:
    layers = {position: experts_of("Q8_0", False, position).layer for position in range(3)}
    size = layers[0].expert_bytes
    planned = 3 * N_EXPERTS * size
    for room in (planned, planned // 2, size, size // 2):
        stingy = Stingy(calls, room)
        opened = open_pools(stingy, devices[0], layers, planned)
        assert opened.n_bytes <= room
        n_slots = sum(pool.slots.n_slots for pool in opened.pools.values())
        assert n_slots >= 0.7 * (room // size)
        assert bool(opened.notes) == (room < planned)
        for pool in opened.pools.values():
            pool.close()
        assert stingy.left == room
    tier = DeviceTier(Stingy(calls, 10), list(layers.values()), [DevicePlace(devices[0], (0, 1, 2), planned)])
    assert tier.slot_of == [None, None, None]
    assert tier.stats() == ()
    assert devices[0].label in tier.notes[0]
    tier.close()


def test_what_a_device_costs_is_measured_and_leaves_nothing_behind(
    calls: DeviceCalls, devices: tuple[Device, Device]
) -> None:
    experts = experts_of("Q8_0", False, 0)
    tier = DeviceTier(calls, [experts.layer], [DevicePlace(devices[0], (0,), BUDGET_BYTES)])
    try:
        costs = measured_costs(tier, 0)
        assert costs.device(1) > 0
        assert 0 < costs.upload_s_per_expert < costs.loaded_upload_s_per_expert
        assert tier.slot_of[0] == [-1] * N_EXPERTS
        tier.check_integrity()
    finally:
        tier.close()


def test_a_device_without_pinned_memory_is_measured_once(
    calls: DeviceCalls, devices: tuple[Device, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Costs] = []

    def counted(*arguments: Any, **options: Any) -> Costs:
        made.append(measured_costs(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(hybrid_devices, "measured_costs", counted)
    layers: Any = [experts_of("Q8_0", False, seed).layer for seed in range(2)]
    tier = DeviceTier(calls, layers, [DevicePlace(devices[0], (0, 1), BUDGET_BYTES)])
    experts, reader = SimpleNamespace(layers=layers), SimpleNamespace()
    one = hybrid_devices.HybridDevices(tier, experts, reader)  # type: ignore[arg-type]
    try:
        assert host_buffer_type(calls, devices[0]) == 0
        assert len(made) == 1
        assert one.costs(0) is one.costs(1) is made[0]
    finally:
        one.close()


def test_what_a_device_cannot_compute_is_left_out(calls: DeviceCalls, devices: tuple[Device, Device]) -> None:
    unable = DeviceCalls(Ggml(calls.ggml.folder))
    unable.ggml.ggml_backend_dev_supports_op = lambda device, op: at(at(op).src[0]).type != abi.GGML_TYPE["Q8_0"]
    layers = [experts_of("Q8_0", False, 0).layer, experts_of("F32", False, 0).layer]
    tier = DeviceTier(unable, layers, [DevicePlace(devices[0], (0, 1), BUDGET_BYTES)])
    try:
        assert [slots is not None for slots in tier.slot_of] == [False, True]
        assert tier.notes == (f"{devices[0].label} cannot multiply experts of type Q8_0",)
        with pytest.raises(ValueError, match="no slots"):
            tier.begin_upload(0, 0)
    finally:
        tier.close()


def test_a_layer_lies_on_one_device(calls: DeviceCalls, devices: tuple[Device, Device]) -> None:
    places = [DevicePlace(device, (0,), BUDGET_BYTES) for device in devices]
    with pytest.raises(ValueError, match="two devices"):
        DeviceTier(calls, [experts_of("F32", False, 0).layer], places)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 8)), min_size=1, max_size=6),
    st.integers(-10, 3000),
)
def test_slots_keep_to_the_budget_and_waste_less_than_an_expert(layers: list[tuple[int, int]], budget: int) -> None:
    sizes, n_experts = [size for size, _ in layers], [n for _, n in layers]
    n_slots = slots_within(sizes, n_experts, budget)
    used = sum(n * size for n, size in zip(n_slots, sizes, strict=True))
    assert 0 <= used <= max(0, budget)
    assert all(n <= most for n, most in zip(n_slots, n_experts, strict=True))
    if len(set(layers)) == 1:
        assert max(n_slots) - min(n_slots) <= 1
        assert n_slots == n_experts or budget - used < sizes[0] or budget < 0


def test_a_server_that_dies_takes_the_process_with_it(calls: DeviceCalls) -> None:
    """What ggml does, held fast because the engine is built around it: SIGABRT, from its own thread."""
    with running_rpc_server() as server:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _USE_A_DEVICE, server.endpoint],
            env={**os.environ, "PYTHONPATH": str(ROOT), "GGML_NO_BACKTRACE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "computing\n"
        server.kill()
        _, errors = child.communicate(timeout=60)
    assert child.returncode == -6
    assert "Remote RPC server crashed" in errors


_USE_A_DEVICE = """
import sys, pathlib
import numpy as np
from tests.moe.test_device_executor import *
calls = DeviceCalls(Ggml(load_libggml().path.parent))
(device,) = add_rpc_server(calls, sys.argv[1])
experts = Experts("F32")
tier = DeviceTier(calls, [experts.layer], [DevicePlace(device, (0,), BUDGET_BYTES)])
tier.upload(0, 0, experts.addresses(0))
x, ids = inputs(1, 1, 0, among=1)
out = np.zeros((1, N_EMBD), dtype=np.float32)
through(tier, 0, x, ids, out)
print("computing", flush=True)
while True:
    through(tier, 0, x, ids, out)
"""


def test_memory_of_a_device_that_has_none_of_its_own_is_ordinary(
    calls: DeviceCalls, devices: tuple[Device, Device]
) -> None:
    """A server copies nothing from here by itself: all that makes use of that does without."""
    memory = HostMemory(calls, devices[0], 4096)
    ctypes.memset(memory.address, 7, 4096)
    assert ctypes.string_at(memory.address, 4096) == b"\7" * 4096
    memory.close()
    assert host_buffer_type(calls, devices[0]) == 0
    pages = PinnedPages(calls, devices[0])
    assert not pages.is_possible
    assert not pages.pin(memory.address, 4096)
    pages.close()


def test_experts_copied_beside_the_computing(calls: DeviceCalls, devices: tuple[Device, Device]) -> None:
    experts = experts_of("Q8_0", False, 0)
    budget = 4 * experts.layer.expert_bytes + (8 << 20)
    tier = DeviceTier(calls, [experts.layer], [DevicePlace(devices[0], (0,), budget)], chunk_pairs=8)
    try:
        assert tier.can_copy_beside(0)
        n_slots = tier.stats()[0].n_slots
        for first in range(0, N_EXPERTS, 2):  # more than there are slots: later ones take the places of earlier ones
            for expert in (first, first + 1):
                tier.copy_beside(0, expert, experts.addresses(expert), (first, first + 1))
            x, _ = inputs(1, 2, first)
            ids = np.array([[first, first + 1]], dtype=np.int32)
            out = np.full((2, N_EMBD), np.nan, dtype=np.float32)
            assert through(tier, 0, x, ids, out) == 2
            assert np.array_equal(out, experts.on_cpu(calls.ggml, x, ids).reshape(-1, N_EMBD))
        tier.check_integrity()
        slot_of = tier.slot_of[0]
        assert slot_of is not None
        assert sum(slot >= 0 for slot in slot_of) == min(n_slots, N_EXPERTS)
    finally:
        tier.close()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0"])
def test_prompts_whose_experts_lie_there_pass_through_or_are_the_cpus(
    calls: DeviceCalls, devices: tuple[Device, Device], type_name: str, merged: bool
) -> None:
    experts = experts_of(type_name, merged, 1)
    space = PromptSpace(N_EMBD, N_FF, 4, 200, experts.layer.expert_bytes + 4096)
    tier = DeviceTier(calls, [experts.layer], [DevicePlace(devices[0], (0,), BUDGET_BYTES, space)])
    try:
        assert not tier.takes_prompts(0, 201)
        for expert in (5, 2, 7):
            tier.upload(0, expert, experts.addresses(expert))
        joined = [memory_of(experts, expert) for expert in (0, 1, 3)]
        passing = list(zip((0, 1, 3), (addresses for _, addresses in joined), strict=True))
        for n_tokens in (33, 200):
            x, ids = inputs(n_tokens, 4, n_tokens)
            routed = ids.reshape(-1)
            tier.start_prompt(0, PromptCall(routed, 4, passing, x.ctypes.data, GLU_PARAMS))
            out = np.full((len(routed), N_EMBD), 7, dtype=np.float32)  # what the CPU has put there meanwhile
            others = np.flatnonzero(np.isin(routed, (4, 6)))
            tier.finish_prompt(0, out.ctypes.data, others)
            expected = experts.on_cpu(calls.ggml, x, ids).reshape(-1, N_EMBD)
            expected[others] = 7
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
        assert tier.stats()[0].n_passed == 6
    finally:
        tier.close()


def memory_of(experts: Experts, expert: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """An expert's matrices one after the other, as in a slot in RAM; and their addresses."""
    memory = np.concatenate([matrix[expert] for matrix in experts.weights])
    offsets = np.cumsum([0, *(matrix.shape[1] for matrix in experts.weights[:-1])])
    return memory, [int(memory.ctypes.data) + int(offset) for offset in offsets]
