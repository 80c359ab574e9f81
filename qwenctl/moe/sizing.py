"""How much memory each part of a model gets: the dense part first, expert slots last. Pure arithmetic on values.

    budget      what this process may hold in all: --ram, or what the machine or its control group has left
      margin      for what nobody counted, and on a machine of its own for the other programs
      base        Python, libraries, the vocabulary; what the caller reserves for itself
      dense       attention, norms, routers, embedding, output: resident, in memory that cannot be evicted
      kv          the KV cache
      compute     activations of the micro-batch, logits
      staging     where the I/O threads read what has to be rearranged
      scratch     rows between our own graphs' nodes
      ring        slots outside the pools, through which a prompt's experts stream
      experts     slots, the same number in every layer to start with, the rest one each to the first layers
    free        what is too small for another slot

Pages of the file that a stock run would map are not counted: nothing reads the experts through them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwenctl.errors import DoesNotFit, InvalidRequest
from qwenctl.moe.context_memory import compute_bytes, kv_cache_bytes, scores_bytes
from qwenctl.moe.device_budget import DevicePlan, DeviceRequest, plan_devices
from qwenctl.moe.flash_choice import FLOAT_CACHES, MOST_SCORES_BYTES
from qwenctl.moe.machine_memory import MachineMemory
from qwenctl.moe.microbatch import N_UBATCHES, Candidate, choose_ubatch
from qwenctl.moe.model_size import ModelSize
from qwenctl.moe.offload_plan import MemoryParts, OffloadPlan, OffloadRequest
from qwenctl.moe.prompt_space import PromptSpace
from qwenctl.units import GIB, MIB, format_memory

_TIGHT_UBATCHES = (256, 128, 64)  # where not even the smallest of N_UBATCHES fits
# Measured: 27 MiB anonymous and 31 of libraries before the engine opens, 98 after it with the vocabulary of Qwen3, 132
# in between; the rest is for what the scheduler and the I/O threads hold.
_BASE_BYTES = 90 * MIB
_BASE_VOCAB_BYTES = 700  # a token of the vocabulary, in llama.cpp and in ours
_SCORES_SHARE = 16  # nor more than this part of the budget, unless all experts have slots nevertheless
_LEAST_RING_SLOTS = 4
_RING_ROUNDS = 2  # experts of this many tokens in the ring, if that is …
_RING_SHARE = 16  # … at most this part of what experts have
_CELLS_STEP = 256
_HUGE_PAGE_BYTES = 2 * MIB  # staging.py takes whole ones
# Of a device, beside what llama.cpp's graph takes there by itself: copies of the experts' results, and what its library
# takes while it computes. Of both together 820 MiB were measured at 30B-A3B's shape, micro-batches of 2048, CUDA.
_RESULT_COPIES, _LIBRARY_BYTES = 3, 384 * MIB
_PADDING_BYTES = 4096  # of an expert's matrices on a device
_TOKEN_ROWS = 64  # workbench.py: of graphs for one token


def size_offload(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> OffloadPlan:
    """Return the plan with the most expert slots that the budget allows.

    Raises:
        DoesNotFit: the budget is below what a slot for each used expert and the rest need; the message has the
            smallest budget, the hint what works. Or `ram_bytes` is more than this process could ever have.
        InvalidRequest: `n_slots` is below the experts that one token uses.
    """
    _check(model, machine, request)
    plan = try_size(model, machine, request)
    if plan is None:
        raise _does_not_fit(model, machine, request)
    return plan


def smallest_ram_bytes(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> int:
    """Return the smallest `ram_bytes` that `size_offload` can plan with, a multiple of 1 MiB."""
    low, high = 0, 1
    while try_size(model, machine, replace(request, ram_bytes=high * MIB)) is None:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if try_size(model, machine, replace(request, ram_bytes=middle * MIB)) is None:
            low = middle
        else:
            high = middle
    return high * MIB


def largest_context(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> int | None:
    """Return the longest context that fits, at most the one asked for, in steps of 256; None if none does."""
    if try_size(model, machine, request) is not None:
        return request.n_cells
    low, high = 0, request.n_cells // _CELLS_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if try_size(model, machine, replace(request, n_cells=_CELLS_STEP * middle)) is None:
            high = middle - 1
        else:
            low = middle
    return _CELLS_STEP * low if low else None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What remains for ring and slots with one micro-batch."""

    n_ubatch: int
    flash: bool
    parts: MemoryParts  # ring and experts still 0
    left_bytes: int


@dataclass(frozen=True, slots=True)
class _Room:
    """One budget, to be tried with several micro-batches."""

    model: ModelSize
    machine: MachineMemory
    request: OffloadRequest
    budget: int
    devices: DevicePlan

    def attempts(self) -> list[_Attempt]:
        """Return every micro-batch that leaves the least ring and slots; the tight ones only if no other does."""
        request = self.request
        if request.n_ubatch is not None:
            rounds: list[tuple[int, ...]] = [(request.n_ubatch,)]
        else:
            usual = tuple(sorted({min(n_ubatch, request.n_batch) for n_ubatch in N_UBATCHES}))
            rounds = [usual, *((n_ubatch,) for n_ubatch in _TIGHT_UBATCHES if n_ubatch < usual[0])]
        for n_ubatches in rounds:
            tried = [self._attempt(n_ubatch) for n_ubatch in n_ubatches]
            if found := [one for one in tried if one is not None]:
                return found
        return []

    def _attempt(self, n_ubatch: int) -> _Attempt | None:
        """Return what a micro-batch leaves; without flash attention where that is allowed, sensible and fits."""
        scores = scores_bytes(self.model.shape, n_ubatch, self.request.n_cells)
        for flash in self._flash_choices(scores):
            parts = self._parts(n_ubatch, flash=flash)
            left = self.budget - parts.total_bytes
            asked = self.request.flash_attention is not None
            cheap = flash or asked or scores <= self.budget // _SCORES_SHARE
            if left >= (_least_bytes(self.model, self.request) if cheap else self.model.all_slots_bytes):
                return _Attempt(n_ubatch, flash, parts, left)
        return None

    def _flash_choices(self, scores: int) -> tuple[bool, ...]:
        """Return what to try, the better one first.

        With one sequence flash attention, as stock llama.cpp has it: beside experts, what it costs an answer (5 % at
        2,048 tokens of 30B-A3B's shape) is less than what it saves a prompt (25 %). With several sequences not, where
        that is sensible: what one of them says must not depend on the others (services/native_model.py).
        """
        if self.request.flash_attention is not None:
            return (self.request.flash_attention,)
        without = self.request.n_streams > 1 and scores <= MOST_SCORES_BYTES and self.request.type_v in FLOAT_CACHES
        return (False, True) if without else (True,)

    def _parts(self, n_ubatch: int, *, flash: bool) -> MemoryParts:
        model, request, devices = self.model, self.request, self.devices
        shared = self.machine.shared and request.ram_bytes is None
        return MemoryParts(
            margin=margin_bytes(self.budget, shared=shared),
            base=base_bytes(model.shape.n_vocab, self.machine.used_bytes) + request.reserved_bytes,
            dense=max(0, model.dense_bytes - devices.dense_bytes),
            kv=max(0, _kv_bytes(model, request) - devices.kv_bytes),
            compute=compute_bytes(model.shape, n_ubatch, request.n_cells, n_outputs=request.n_outputs, flash=flash),
            staging=request.n_io_threads * _padded(model.largest_slice_bytes, _HUGE_PAGE_BYTES),
            scratch=4 * (request.wave_rows + _TOKEN_ROWS) * (model.shape.n_embd + 3 * model.shape.n_ff_expert),
            ring=0,
            experts=0,
        )


def _check(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> None:
    asked, space = request.ram_bytes, machine.address_space_bytes
    if asked is not None and asked > machine.limit_bytes:
        message = f"--ram {format_memory(asked)} is more than can be had here: {format_memory(machine.limit_bytes)}"
        raise DoesNotFit(message, "leave --ram out to use what is available")
    # The mapped file, llama.cpp's buffer for the experts and the pools take addresses whatever the budget.
    needed = model.file_bytes + model.n_experts * sum(model.expert_bytes) + model.all_slots_bytes
    if space is not None and needed > space:
        message = f"the model needs {format_memory(needed)} of address space; {format_memory(space)} are allowed"
        raise DoesNotFit(message, "run `ulimit -v unlimited` first, or set vm.overcommit_memory to 0")
    if request.n_slots is not None and request.n_slots < model.n_experts_used:
        raise InvalidRequest(f"{request.n_slots} slots a layer, but each token uses {model.n_experts_used} experts")


def _budget_of(machine: MachineMemory, request: OffloadRequest) -> int:
    return machine.budget_bytes if request.ram_bytes is None else request.ram_bytes


def fits_devices(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> bool:
    """Return whether the devices hold the whole model as stock llama.cpp places it: that is quickest then."""
    budgets = _devices(model, machine, request, prompts=False).budgets
    n_held = sum(len(budget.layers) for budget in budgets)
    every = all(budget.n_slots == model.n_experts for budget in budgets if budget.layers)
    return n_held == model.shape.n_layers and every


def prompt_space(model: ModelSize, n_ubatch: int) -> PromptSpace:
    """Return what a micro-batch's experts take of a device beside their slots."""
    shape = model.shape
    largest = max(model.expert_bytes) + _PADDING_BYTES
    return PromptSpace(shape.n_embd, shape.n_ff_expert, model.n_experts_used, n_ubatch, largest)


def try_size(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> OffloadPlan | None:
    """Return the best plan for the request's budget, None if there is none; nothing else is checked.

    Devices are planned for the smallest micro-batch first, and then for the chosen one, unless that costs them layers.
    """
    plan = _tried(model, machine, request)
    if plan is None or request.n_ubatch is not None or not plan.devices.budgets:
        return plan
    again = _tried(model, machine, replace(request, n_ubatch=plan.n_ubatch))
    if again is None or again.devices.n_gpu_layers < plan.devices.n_gpu_layers:
        again = _tried(model, machine, replace(request, n_ubatch=min(N_UBATCHES[0], request.n_batch)))
    return again or plan


def _tried(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> OffloadPlan | None:
    budget, devices = _budget_of(machine, request), _devices(model, machine, request)
    attempts = _Room(model, machine, request, budget, devices).attempts()
    if not attempts:
        return None
    candidates = [Candidate(one.n_ubatch, _slots_a_layer(model, request, one.left_bytes)) for one in attempts]
    chosen = choose_ubatch(model, request.rates, candidates)
    attempt = next(one for one in attempts if one.n_ubatch == chosen)
    ring_slots, n_slots = _share(model, request, attempt.left_bytes)
    experts = sum(count * size for count, size in zip(n_slots, model.slot_bytes, strict=True))
    fixed = attempt.parts
    stock_bytes = fixed.margin + fixed.base + fixed.kv + fixed.compute + model.file_bytes - devices.dense_bytes
    return OffloadPlan(
        budget_bytes=budget,
        parts=replace(fixed, ring=ring_slots * max(model.slot_bytes), experts=experts),
        n_experts=model.n_experts,
        n_slots=n_slots,
        slot_bytes=model.slot_bytes,
        ring_slots=ring_slots,
        n_ubatch=attempt.n_ubatch,
        flash_attention=attempt.flash,
        layout=request.layout,
        stock_fits=stock_bytes <= budget,
        devices=devices,
    )


def _devices(model: ModelSize, machine: MachineMemory, request: OffloadRequest, *, prompts: bool = True) -> DevicePlan:
    n_ubatch, flash = request.n_ubatch or N_UBATCHES[0], request.flash_attention is not False
    compute = compute_bytes(model.shape, n_ubatch, request.n_cells, n_outputs=request.n_outputs, flash=flash)
    if prompts:
        space = prompt_space(model, n_ubatch)
        compute += space.n_bytes + _RESULT_COPIES * n_ubatch * space.n_used * space.row_bytes + _LIBRARY_BYTES
    kv = _kv_bytes(model, request)
    wanted = DeviceRequest(kv, compute, request.vram_bytes, request.n_gpu_layers, request.split)
    return plan_devices(model, machine.devices, wanted)


def _padded(n_bytes: int, step: int) -> int:
    return -(-n_bytes // step) * step


def base_bytes(n_vocab: int, used_bytes: int) -> int:
    """Return what Python, libraries and the vocabulary take, at least what this process holds already."""
    return max(_BASE_BYTES + _BASE_VOCAB_BYTES * n_vocab, used_bytes)


def margin_bytes(budget: int, *, shared: bool) -> int:
    """Return what stays unplanned: less where a control group or --ram is the bound, and nobody else lives there."""
    return 256 * MIB + budget // 20 if shared else 64 * MIB + budget // 50


def _kv_bytes(model: ModelSize, request: OffloadRequest) -> int:
    return kv_cache_bytes(model.shape, request.n_cells, request.n_streams, request.type_k, request.type_v)


def _least_bytes(model: ModelSize, request: OffloadRequest) -> int:
    """Return the bytes of the fewest slots that work, with the shortest ring; none is needed if all have slots."""
    n_slots = request.n_slots or model.n_experts_used
    if n_slots >= model.n_experts:
        return model.all_slots_bytes
    return n_slots * sum(model.slot_bytes) + _least_ring_slots(request) * max(model.slot_bytes)


def _least_ring_slots(request: OffloadRequest) -> int:
    """Two matrices under way for each I/O thread, at least; an expert has two or three."""
    return max(_LEAST_RING_SLOTS, request.n_io_threads)


def _share(model: ModelSize, request: OffloadRequest, left_bytes: int) -> tuple[int, tuple[int, ...]]:
    """Return (ring slots, slots of each layer) for what is left; at least `_least_bytes`."""
    n_layers, row = model.n_moe_layers, sum(model.slot_bytes)
    wanted = min(request.n_slots or model.n_experts, model.n_experts)
    if wanted == model.n_experts and left_bytes >= model.all_slots_bytes:
        return 0, (model.n_experts,) * n_layers
    least = max(request.n_slots or 0, model.n_experts_used) * row
    ring_bytes = max(model.slot_bytes)
    ring = min(left_bytes // _RING_SHARE, left_bytes - least) // ring_bytes
    ring = max(_least_ring_slots(request), min(ring, _RING_ROUNDS * model.n_experts_used))
    left = left_bytes - ring * ring_bytes
    each = min(wanted, left // row)
    left -= each * row
    counts = []
    for size in model.slot_bytes:
        more = each < wanted and size <= left
        left -= size if more else 0
        counts.append(each + more)
    return ring, tuple(counts)


def _slots_a_layer(model: ModelSize, request: OffloadRequest, left_bytes: int) -> float:
    return sum(_share(model, request, left_bytes)[1]) / model.n_moe_layers


def _does_not_fit(model: ModelSize, machine: MachineMemory, request: OffloadRequest) -> DoesNotFit:
    """Return the error, with the smallest budget that works and the first way out that leads there."""
    smallest, budget = smallest_ram_bytes(model, machine, request), _budget_of(machine, request)
    has = f"{machine.bound_by} has {format_memory(budget)} left"
    if request.ram_bytes is not None:
        has = f"--ram is {format_memory(budget)}"
    needed = f"{-(-smallest * 10 // GIB) / 10:.1f} GiB" if smallest >= GIB else f"{smallest // MIB} MiB"  # rounded up
    message = f"the model needs at least {needed} of RAM with a context of {request.n_cells} tokens; {has}"
    if smallest <= (machine.budget_bytes if request.ram_bytes is None else machine.limit_bytes):
        return DoesNotFit(message, f"use --ram {smallest // MIB}MiB or more")
    n_cells = largest_context(model, machine, request)
    if n_cells is not None:
        return DoesNotFit(message, f"use --ctx {n_cells} or less")
    return DoesNotFit(message, "close other programs, raise the limit, or take a smaller quantization")
