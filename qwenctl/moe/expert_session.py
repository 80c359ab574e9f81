"""An opened model's experts: pools, ring, loader and steps, between llama.cpp's graphs and the model's files.

    ExpertSession.run   called by the device (backend.py) for every layer of every batch: finds or makes the step

Made before llama.cpp loads the model, closed after it has been freed. One thread computes. Decides nothing about sizes:
`SessionPlan` says what was decided.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from quant.gguf_read import GgufFile
from qwenctl.errors import GenerationFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.backend import ExpertDevice
from qwenctl.moe.batch_step import BatchStep
from qwenctl.moe.device_places import DevicePlace
from qwenctl.moe.device_tier import DeviceTier
from qwenctl.moe.devices import DeviceCalls
from qwenctl.moe.expert_loader import ExpertLoader
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.expert_pools import LayerSlots
from qwenctl.moe.expert_watch import ExpertWatch
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.hit_curves import HitCurve
from qwenctl.moe.host_memory import host_buffer_type
from qwenctl.moe.hybrid_devices import DevicePolicy, HybridDevices
from qwenctl.moe.hybrid_step import hybrid_step
from qwenctl.moe.layer_call import LayerCall, read_call
from qwenctl.moe.lookahead import RouterLookahead, can_look_ahead
from qwenctl.moe.offload_stats import OffloadStats
from qwenctl.moe.prefetch_gate import Mode, PrefetchGate
from qwenctl.moe.prefetcher import Prefetcher
from qwenctl.moe.quotas import LayerNeeds, used_bytes
from qwenctl.moe.routing_profile import RoutingProfile
from qwenctl.moe.slot_balance import PROPOSE_EVERY, SlotBalance
from qwenctl.moe.slot_layout import LayoutMaker, LayoutName
from qwenctl.moe.stream_ring import StreamRing
from qwenctl.moe.token_path import TokenPath, find_token_path
from qwenctl.moe.token_step import TokenStep
from qwenctl.moe.workbench import Recorder, Workbench

_UID_AT = abi.ggml_cgraph.uid.offset
Step = Callable[[], int]

OVERRIDE_PATTERN = rb"blk\.\d+\.ffn_(gate|up|gate_up|down)_exps\.weight"


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What an opened model's experts get.

    Attributes:
        n_slots: of each layer, in the order of the expert map.
        ring_slots: for streaming; at least one unless every expert has a slot.
        layout: of the slots.
        decode_per_expert: single tokens with a product an expert, or with MUL_MAT_ID.
        batch_per_expert: the same for many tokens at once.
        n_threads: that compute.
        n_io_threads: that read.
        wave_rows: pairs of (token, expert) that one graph computes at most.
        direct: read with O_DIRECT; None: where it works.
    """

    n_slots: tuple[int, ...]
    ring_slots: int
    layout: LayoutName
    decode_per_expert: bool
    batch_per_expert: bool
    n_threads: int
    n_io_threads: int
    wave_rows: int
    direct: bool | None = None


def _nothing() -> int:
    return abi.GGML_STATUS_SUCCESS


class ExpertSession:
    """See the module. Close it."""

    def __init__(
        self,
        ggml: Ggml,
        experts: ExpertMap,
        plan: SessionPlan,
        *,
        abort: tuple[int, int] | None = None,
        compiled: bool = True,
        reader_options: dict[str, Any] | None = None,
        devices: Sequence[DevicePlace] = (),
        device_policy: DevicePolicy | None = None,
    ) -> None:
        """Reserve and prepare everything; nothing is read yet.

        Args:
            ggml: the library.
            experts: where they lie.
            plan: what was decided.
            abort: addresses of a C function and its data: true breaks off what is being computed.
            compiled: use the compiled hot path if it is there.
            reader_options: for ExpertReader; tests inject faults.
            devices: what each device is to hold.
            device_policy: what steps may do with them.
        """
        self.experts, self.plan = experts, plan
        self.stats = OffloadStats()
        self._ggml = ggml
        self._steps: dict[int, Step] = {}  # by the uid of llama.cpp's graph
        self._uids = [0] * len(experts.layers)  # of each layer's newest graph; llama.cpp has forgotten older ones
        self._positions = {layer.index: position for position, layer in enumerate(experts.layers)}
        self._n_batches = 0
        self._is_token = False
        self.prefetcher: Prefetcher | None = None
        self._device = ExpertDevice.shared(ggml)
        self._device.check_free()
        self._handles = ExitStack()
        try:
            self._make(abort, reader_options or {})
            self.devices = self._make_devices(devices, device_policy)
            self._path = self._attach(compiled=compiled)
        except BaseException:
            self._handles.close()
            raise
        self._overrides = self._make_overrides()

    def _make(self, abort: tuple[int, int] | None, reader_options: dict[str, Any]) -> None:
        ggml, experts, plan, handles = self._ggml, self.experts, self.plan, self._handles
        maker = LayoutMaker(ggml)
        handles.callback(maker.close)
        layouts = [maker.layout(layer, plan.layout) for layer in experts.layers]
        can_join = all(layout.joins_gate_and_up for layout in layouts)
        self.decode_per_expert = plan.decode_per_expert and can_join
        self.batch_per_expert = plan.batch_per_expert and can_join
        self.pools: list[LayerSlots] = []
        for layer, layout, n_slots in zip(experts.layers, layouts, plan.n_slots, strict=True):
            self.pools.append(LayerSlots(ggml, maker, layer, layout, n_slots, experts.n_experts_used))
            handles.callback(self.pools[-1].space.close)
        self.balance: SlotBalance | None = None
        if min(plan.n_slots) < experts.n_experts:
            self._start_balance()
        self.loader = ExpertLoader(experts, plan.n_io_threads, plan.n_threads, direct=plan.direct, **reader_options)
        self.ring = StreamRing(ggml, maker, layouts, max(1, plan.ring_slots), self.loader)
        handles.callback(self.ring.close)
        self._cpu = int(ggml.ggml_backend_cpu_init())
        handles.callback(ggml.ggml_backend_free, self._cpu)
        ggml.ggml_backend_cpu_set_n_threads(self._cpu, plan.n_threads)
        if abort is not None:
            ggml.ggml_backend_cpu_set_abort_callback(self._cpu, *abort)
        self._bench = Workbench(
            ggml,
            self._cpu,
            self.loader,
            self.pools,
            self.ring,
            self.stats,
            decode_per_expert=self.decode_per_expert,
            batch_per_expert=self.batch_per_expert,
            wave_rows=plan.wave_rows,
        )
        handles.callback(self._bench.close)
        handles.callback(self.loader.close)  # before all that its threads write into

    @property
    def overrides_address(self) -> int:
        """Address of the llama_model_tensor_buft_override array for llama_model_params."""
        return ctypes.addressof(self._overrides)

    def run(self, graph: int) -> int:
        """Compute what llama.cpp's scheduler sent: the ggml_cgraph at an address. Returns a ggml_status."""
        uid = ctypes.c_uint64.from_address(graph + _UID_AT).value
        step = self._steps.get(uid)
        if step is None:
            step = self._new_step(graph, uid)
        return step()

    def record_with(self, sink: Recorder) -> None:
        """Tell `sink` (layer of the model, ids, n_tokens, ids a token) from now on; before the context is made."""
        layers = [layer.index for layer in self.experts.layers]
        self._bench.record = lambda position, ids, n_tokens, n_row: sink(layers[position], ids, n_tokens, n_row)
        self._bench.path = self._path = None  # the compiled path tells nobody
        self._device.detach(self)
        self._device.attach(self, activations_type=self._activations_type())

    def watch_with(self, watch: ExpertWatch) -> None:
        """Tell `watch` what the experts multiply, from now on; before the context is made, and without devices.

        An evaluation callback has ggml hand over parts of graphs, all without a number (ggml_graph_view), so that steps
        are made anew each time; nodes of llama.cpp's must not be pointed at slots then, since they come again.

        Raises:
            ValueError: experts lie on devices, where nobody sees what they multiply.
        """
        if self.devices is not None:
            raise ValueError("experts on devices cannot be watched")
        self._bench.watch = watch
        self._bench.path = self._path = None
        self._device.detach(self)
        self._device.attach(self)

    def look_ahead(self, gguf: GgufFile, mode: Mode) -> None:
        """Read experts ahead where their router can be foretold and it pays; before the first batch.

        Raises:
            ExpertReadFailed: a router cannot be read.
        """
        if mode == "off" or self.balance is None or not self.decode_per_expert:
            return
        if not can_look_ahead(gguf, self.experts):
            return
        lookahead = RouterLookahead(self._ggml, self._cpu, gguf, self.experts)
        self._handles.callback(lookahead.close)
        self.prefetcher = Prefetcher(self._bench, lookahead, PrefetchGate(mode), self.experts.n_experts_used)
        self._bench.prefetcher = self.prefetcher

    def fill(self) -> None:
        """Where every expert has a slot, begin to read them all, behind whatever a batch waits for."""
        if self.balance is not None:
            return
        if self.devices is not None:
            self.devices.pin(self.pools)
        for expert in range(self.experts.n_experts):
            for position, layer in enumerate(self.pools):
                self._bench.load(position, expert, (), urgent=False)
                if self.devices is not None:
                    self.devices.fill(position, expert, layer)

    def warm_start(self, profile: RoutingProfile) -> None:
        """Begin with what is remembered of the model's routing: quotas, and leisurely reads of what was used most."""
        if self.balance is None or not all(one.n_samples for one in profile.layers):
            return
        self._start_balance([one.curve() for one in profile.layers])
        self._move_slots()
        n_used = self.experts.n_experts_used
        orders = [
            one.order_by_heat()[: layer.pool.n_slots - n_used]
            for one, layer in zip(profile.layers, self.pools, strict=True)
        ]
        for rank in range(max(len(order) for order in orders)):
            for position, order in enumerate(orders):
                if rank < len(order):
                    self._bench.load(position, order[rank], (), urgent=False)

    def profile_after(self, profile: RoutingProfile) -> RoutingProfile | None:
        """Return `profile` with what this session saw; None: it sampled nothing."""
        if self.balance is None or not all(curve.n_samples for curve in self.balance.curves):
            return None
        pairs = zip(profile.layers, self.balance.curves, strict=True)
        return RoutingProfile(tuple(layer.followed_by(curve) for layer, curve in pairs))

    def before_batch(self, n_tokens: int) -> None:
        """To be called before each batch of `n_tokens`."""
        self._is_token = n_tokens == 1 and self.prefetcher is not None
        if self._is_token and self.prefetcher:
            self.prefetcher.begin_token()

    def after_batch(self) -> None:
        """To be called after each batch: moves slots to the layers that gain most from them, now and then.

        Raises:
            ExpertReadFailed: an expert on its way could not be read.
        """
        if self._is_token and self.prefetcher:
            self.prefetcher.end_token()
        self._is_token = False
        self._n_batches += 1
        if self.balance is None or self._n_batches % PROPOSE_EVERY:
            return
        for step in self._steps.values():
            if isinstance(step, TokenStep | BatchStep):
                step.drain()
        self._move_slots()

    def counters(self) -> dict[str, Any]:
        """Return what was counted, in units; steps of the compiled path are token steps with hits only."""
        if self._path is None:
            return self.stats.as_json()
        n_steps, n_used = self._path.n_steps, self.experts.n_experts_used
        return self.stats.with_path(n_steps, n_steps * n_used, self._path.compute_ns, self._path.own_ns()).as_json()

    def reset_counters(self) -> None:
        """Count from zero."""
        self.stats.reset()
        if self._path:
            self._path.reset()

    def take_error(self) -> BaseException | None:
        """Return what was raised below llama_decode since the last call."""
        error = self._device.take_error()
        if error is not None:  # what else is under way may have failed as well: the next batch starts clean
            for layer in self.pools:
                layer.give_up()
            self.ring.forget()
        return error

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books on slots agree."""
        for layer in self.pools:
            layer.check_integrity()
        self.ring.check_integrity()
        if self.devices is not None:
            self.devices.tier.check_integrity()

    def close(self) -> None:
        """Stop reading and free everything. llama.cpp's model must be freed already."""
        self._device.detach(self)
        for position in range(len(self._uids)):
            self._forget_step(position)
        self._handles.close()

    def _new_step(self, graph: int, uid: int) -> Step:
        call = read_call(graph)
        if call is None:
            raise GenerationFailed(
                "this model's expert layers have a form that cannot be offloaded", "use --offload off"
            )
        if call.n_tokens == 0:  # of a batch without outputs, the last layer has nothing to compute
            return _nothing
        position = self._positions[call.layer]
        self._forget_step(position)
        step = hybrid_step(self._bench, position, call, self.devices) or self._cpu_step(position, call, uid)
        if uid:
            self._steps[uid], self._uids[position] = step, uid
        return step

    def _cpu_step(self, position: int, call: LayerCall, uid: int) -> Step:
        if call.n_tokens == 1 and self.decode_per_expert and self._bench.watch is None:
            graph = self._bench.layer_token_graph(position, call.n_used, call.glu_params)
            return TokenStep(self._bench, position, call, graph, uid)
        return BatchStep(self._bench, position, call, uid)

    def _make_devices(self, places: Sequence[DevicePlace], policy: DevicePolicy | None) -> HybridDevices | None:
        if not places:
            return None
        tier = DeviceTier(DeviceCalls(self._ggml), self.experts.layers, places)
        devices = HybridDevices(tier, self.experts, self.loader.reader, policy)
        self._handles.callback(devices.close)
        return devices

    def _attach(self, *, compiled: bool) -> TokenPath | None:
        """Have llama.cpp's graphs sent here; returns the compiled path if they go through it."""
        library = find_token_path() if compiled else None
        if library is None:
            self._device.attach(self, activations_type=self._activations_type())
            return None
        path = TokenPath(library, self._ggml.graph_compute_address, self._cpu)
        compute = path.attach(self._device.compute_function)
        self._device.attach(self, compute, activations_type=self._activations_type())
        self._bench.path = path
        return path

    def _activations_type(self) -> int | None:
        """Return the buffer type from which the first device copies by itself; None: it has none."""
        if self.devices is None:
            return None
        found = (self.devices.tier.device_of(position) for position in range(len(self.pools)))
        device = next((one for one in found if one is not None), None)
        return host_buffer_type(self.devices.tier.calls, device) or None if device else None

    def _start_balance(self, curves: Sequence[HitCurve] | None = None) -> None:
        """Let slots follow what layers need, from even quotas and what is known of the layers."""
        n_used = self.experts.n_experts_used
        needs = [LayerNeeds(layer.slot_bytes, layer.pool.n_experts, n_used) for layer in self.pools]
        n_slots = [layer.pool.n_slots for layer in self.pools]
        self.balance = SlotBalance(used_bytes(needs, n_slots), needs, n_slots, curves)
        for position, layer in enumerate(self.pools):
            layer.position, layer.balance = position, self.balance

    def _move_slots(self) -> None:
        for position, n_slots in self.balance.propose() if self.balance else ():
            self.pools[position].change_slots(n_slots)
            self.stats.n_moved += 1

    def _forget_step(self, position: int) -> None:
        """Drop the step of a layer's last graph: llama.cpp has made a new one."""
        uid, self._uids[position] = self._uids[position], 0
        step = self._steps.pop(uid, None)
        if isinstance(step, TokenStep | BatchStep):
            step.drain()
        if self._path:
            self._path.forget(uid)
        if isinstance(step, BatchStep):
            step.close()

    def _make_overrides(self) -> Any:
        overrides = (abi.llama_model_tensor_buft_override * 2)()
        self._pattern = ctypes.create_string_buffer(OVERRIDE_PATTERN)
        overrides[0].pattern = ctypes.addressof(self._pattern)
        overrides[0].buft = self._device.buffer_type_address
        return overrides
