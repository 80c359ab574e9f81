"""How many tokens a second a placed model makes: what each layer reads and multiplies, over the rates of the machine.

A token of an answer, layer by layer, one after the other:

    dense_s    dense bytes / read rate + cells × KV bytes / read rate + what a layer takes beside
    experts_s  e = E (1 - (1 - k/E)^sequences) experts, of which a share is on the device, a share in RAM, m on the disk
               (microbatch.miss_rate); the device's beside the CPU's, which waits for the disk:
               max(device, CPU + disk)

A prompt in micro-batches of u tokens: the same with products / arithmetic rate, never less than reading the weights
once; attention u × cells × n_head × d × 2; experts that are nowhere are read once a micro-batch, while others are
computed: max(CPU + arranging, disk). Beside a device the smaller of the CPU's products and the upload of its weights
over PCIe counts.

Every second goes to one resource, so the largest sum is what bounds. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from qwenctl.moe.microbatch import experts_used, miss_rate
from qwenctl.planning.layer_work import LayerWork, layer_works, output_work
from qwenctl.planning.machine import GpuRates, Machine
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, LayerPlace, Placement

PROMPT_TOKENS = 2048  # that prompt and cache are taken to hold, if the context has room
# Of a device's rate, with t tokens an expert: share × t / (t + half). Fits an H200 with 30B-A3B in Q4_K_M, 32 tokens an
# expert: 6,900 tokens/s of prompts.
_EXPERT_ARITHMETIC, _EXPERT_HALF_TOKENS = 0.5, 75.0
_UNPINNED_BYTES_S = 10e9  # of uploads from the mapped file, as llama.cpp by itself makes them; measured 7 to 12
_ATTENTION_ARITHMETIC = 0.5  # of a device's rate
# With ggml's flash kernel, and as two products: products a second of a core in a prompt's attention, measured on two
# cores with heads of 128 (30B-A3B's) and of 64 (SmolLM2's), and what is reached of the CPU's reading rate for an
# answer's cells.
_CORE_ATTENTION_MACS_S = {True: 22e9, False: 9e9}
_CPU_CACHE_READ = {True: 0.3, False: 0.8}
_FEW_TOKENS = 4.0  # an expert: below, its weights are read rather than multiplied
_HAND_OVER_S = 30e-6  # of activations between devices
_BESIDE_S = 80e-6  # that a layer takes more if the CPU has some of its experts: there, back, and waiting

Spent = defaultdict[str, float]
"""Seconds by resource."""

_WORDS = {
    "device memory": "reading weights from GPU memory",
    "device arithmetic": "the GPU's arithmetic",
    "device launches": "launching the GPU's work layer by layer",
    "memory": "reading weights from main memory",
    "arithmetic": "the CPU's arithmetic",
    "layers": "the CPU's threads meeting after every operation",
    "cache": "reading the KV cache",
    "attention": "attention over the context",
    "disk": "reading experts from the disk",
    "upload": "copying weights over PCIe",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """One rate.

    Attributes:
        tokens_s: of all sequences together.
        bound_by: the resource that takes most of the time, in words.
        seconds: of a token (an answer) or of the prompt, by resource.
    """

    tokens_s: float
    bound_by: str
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates of prompts and answers.

    Attributes:
        prefill: of a prompt of `n_prompt` tokens.
        decode: of answers after such a prompt, all sequences together.
        decode_full: the same with the whole context filled.
        n_prompt: tokens.
        band: the truth lies within this part of the estimate, as a rule.
    """

    prefill: Estimate
    decode: Estimate
    decode_full: Estimate
    n_prompt: int
    band: float


def estimate_speed(
    model: PlannedModel,
    machine: Machine,
    placement: Placement,
    request: ContextRequest,
    n_prompt: int = PROMPT_TOKENS,
) -> Speed:
    """Return the expected rates of a placed model, with prompts of `n_prompt` tokens if there is room for them."""
    n_prompt = max(1, min(n_prompt, request.n_ctx - 1))
    timing = _Timing(model, machine, placement, request)
    return Speed(
        prefill=timing.prefill(n_prompt),
        decode=timing.decode(n_prompt),
        decode_full=timing.decode(request.n_ctx),
        n_prompt=n_prompt,
        band=machine.band,
    )


class _Timing:
    """Sums seconds by resource over the layers."""

    def __init__(self, model: PlannedModel, machine: Machine, placement: Placement, request: ContextRequest) -> None:
        self._machine, self._placement, self._request = machine, placement, request
        self._works = layer_works(model, request.kv_type)
        self._output = output_work(model)
        self._n_experts, self._n_used = model.shape.n_experts, model.shape.n_experts_used
        self._scheduled = placement.offload is not None
        self._cpu_attention_macs_s = machine.cpu.n_threads * _CORE_ATTENTION_MACS_S[placement.flash]
        self._cpu_cache_bytes_s = machine.cpu.read_bytes_s * _CPU_CACHE_READ[placement.flash]

    def decode(self, n_cells: int) -> Estimate:
        """Return the rate of answers with `n_cells` tokens of each sequence in the cache."""
        n_tokens = self._request.n_parallel
        spent: Spent = defaultdict(float)
        for work, place in zip(self._works, self._placement.layers, strict=True):
            self._decode_layer(spent, work, place, n_tokens, n_cells)
        self._dense(spent, self._output, self._placement.output_device, n_tokens)
        self._hand_over(spent)
        return _estimate(spent, n_tokens)

    def prefill(self, n_prompt: int) -> Estimate:
        """Return the rate of one prompt."""
        spent: Spent = defaultdict(float)
        done, step = 0, self._placement.n_ubatch
        while done < n_prompt:
            n_tokens = min(step, n_prompt - done)
            for work, place in zip(self._works, self._placement.layers, strict=True):
                self._prefill_layer(spent, work, place, n_tokens, done)
            self._hand_over(spent)
            done += n_tokens
        self._dense(spent, self._output, self._placement.output_device, 1)
        return _estimate(spent, n_prompt)

    def _decode_layer(self, spent: Spent, work: LayerWork, place: LayerPlace, n_tokens: int, n_cells: int) -> None:
        self._dense(spent, work, place.device, n_tokens)
        gpu = self._gpu(place.device)
        cache_rate = gpu.read_bytes_s if gpu else self._cpu_cache_bytes_s
        spent["cache"] += n_tokens * (n_cells * work.cell_bytes + work.state_bytes) / cache_rate
        spent["device launches" if gpu else "layers"] += gpu.layer_s if gpu else self._machine.cpu.layer_s
        if work.expert_bytes:
            self._experts(spent, work, place, n_tokens, experts_used(self._n_experts, self._n_used, n_tokens))

    def _prefill_layer(self, spent: Spent, work: LayerWork, place: LayerPlace, n_tokens: int, n_done: int) -> None:
        gpu = self._gpu(place.device)
        # ggml's kernels for the CPU compute what the mask hides, too.
        n_cells = n_done + (n_tokens / 2 if gpu else n_tokens)
        if gpu is None and self._machine.gpus and not self._scheduled:
            self._uploaded(spent, work, n_tokens, n_cells)
            return
        self._dense(spent, work, place.device, n_tokens)
        if gpu:
            spent["device launches"] += gpu.layer_s
        products = n_tokens * n_cells * work.attention_macs
        spent["attention"] += products / (gpu.macs_s * _ATTENTION_ARITHMETIC if gpu else self._cpu_attention_macs_s)
        if work.expert_bytes:
            used = experts_used(self._n_experts, self._n_used, n_tokens)
            if gpu and not self._scheduled and place.ram_slots:
                self._uploaded_experts(spent, work, n_tokens, used)
            else:
                self._experts(spent, work, place, n_tokens, used, even=n_tokens > self._request.n_parallel)

    def _dense(self, spent: Spent, work: LayerWork, device: int | None, n_tokens: int) -> None:
        gpu, cpu = self._gpu(device), self._machine.cpu
        if gpu:
            _longest(
                spent,
                ("device memory", work.dense_bytes / gpu.read_bytes_s),
                ("device arithmetic", n_tokens * work.dense_macs / gpu.macs_s),
            )
        else:
            _longest(
                spent,
                ("memory", work.dense_bytes / cpu.read_bytes_s),
                ("arithmetic", n_tokens * work.dense_macs / cpu.batch.dense_macs_s),
            )

    def _experts(
        self,
        spent: Spent,
        work: LayerWork,
        place: LayerPlace,
        n_tokens: int,
        used: float,
        *,
        even: bool = False,
    ) -> None:
        """Add a layer's experts: `used` of them; `even`: as many of a prompt's as that all are as likely."""
        few = n_tokens * self._n_used / used < _FEW_TOKENS
        on_device, missing = self._shares(place, even=even)
        tokens = n_tokens * self._n_used
        rates = self._placement.rates
        rate = rates.expert_rate(tokens / used)
        compute_s = tokens * (1 - on_device) * work.expert_macs / rate
        if few:  # rates of one token were measured in the processor's cache
            compute_s = max(compute_s, used * (1 - on_device) * work.expert_bytes / self._machine.cpu.read_bytes_s)
        disk_s = used * missing * work.expert_bytes / rates.disk_bytes_s
        if even:  # waves: computed as experts arrive
            cpu_s = max(compute_s + used * missing * work.expert_bytes / rates.arrange_bytes_s, disk_s)
        else:
            cpu_s = compute_s + disk_s
        name = "disk" if disk_s > compute_s else "memory" if few else "arithmetic"
        gpu = self._gpu(place.device)
        device_s = 0.0
        if gpu and on_device < 1:
            spent["device launches"] += _BESIDE_S
        if gpu and on_device:
            device_s = used * on_device * work.expert_bytes / gpu.read_bytes_s
            if not few:
                device_s = max(device_s, tokens * on_device * work.expert_macs / _expert_macs_s(gpu, tokens / used))
        beside = max(("device memory" if few else "device arithmetic", device_s), (name, cpu_s), key=_seconds)
        if even and gpu and on_device:
            beside = min(beside, self._passed_through(work, gpu, tokens, used, on_device, disk_s), key=_seconds)
        spent[beside[0]] += beside[1]

    def _passed_through(  # noqa: PLR0917 - one way to compute a layer
        self, work: LayerWork, gpu: GpuRates, tokens: int, used: float, on_device: float, disk_s: float
    ) -> tuple[str, float]:
        """Return what a prompt's experts take if the device computes all, those in RAM passing through it."""
        upload_s = used * (1 - on_device) * work.expert_bytes / gpu.upload_bytes_s
        compute_s = tokens * work.expert_macs / _expert_macs_s(gpu, tokens / used)
        return max(("upload", upload_s), ("device arithmetic", compute_s), ("disk", disk_s), key=_seconds)

    def _shares(self, place: LayerPlace, *, even: bool) -> tuple[float, float]:
        """Return which parts of a layer's uses meet an expert on the device, and on the disk."""
        n_experts, there = self._n_experts, min(self._n_experts, place.device_slots + place.ram_slots)
        if even:
            return min(1.0, place.device_slots / n_experts), 1 - there / n_experts
        return 1 - miss_rate(n_experts, place.device_slots), miss_rate(n_experts, there)

    def _uploaded(self, spent: Spent, work: LayerWork, n_tokens: int, n_cells: float) -> None:
        """Add a layer in main memory beside a device: the CPU's products, or the upload and the device's."""
        gpu, cpu = self._machine.gpus[0], self._machine.cpu
        dense_s = work.dense_bytes / _unpinned_bytes_s(gpu)
        _cheapest(spent, ("arithmetic", n_tokens * work.dense_macs / cpu.batch.dense_macs_s), ("upload", dense_s))
        spent["attention"] += n_tokens * n_cells * work.attention_macs / self._cpu_attention_macs_s
        if work.expert_bytes:
            used = experts_used(self._n_experts, self._n_used, n_tokens)
            self._uploaded_experts(spent, work, n_tokens, used)

    def _uploaded_experts(self, spent: Spent, work: LayerWork, n_tokens: int, used: float) -> None:
        gpu = self._machine.gpus[0]
        tokens = n_tokens * self._n_used
        on_cpu = tokens * work.expert_macs / self._placement.rates.expert_rate(tokens / used)
        on_gpu = tokens * work.expert_macs / _expert_macs_s(gpu, tokens / used)
        _cheapest(
            spent,
            ("arithmetic", on_cpu),
            ("upload", used * work.expert_bytes / _unpinned_bytes_s(gpu) + on_gpu),
        )

    def _hand_over(self, spent: Spent) -> None:
        places = [place.device for place in self._placement.layers]
        changes = sum(a != b for a, b in pairwise(places))
        spent["device launches"] += changes * _HAND_OVER_S

    def _gpu(self, device: int | None) -> GpuRates | None:
        return None if device is None else self._machine.gpus[device]


def _unpinned_bytes_s(gpu: GpuRates) -> float:
    return min(gpu.upload_bytes_s, _UNPINNED_BYTES_S)


def _expert_macs_s(gpu: GpuRates, tokens_an_expert: float) -> float:
    return gpu.macs_s * _EXPERT_ARITHMETIC * tokens_an_expert / (tokens_an_expert + _EXPERT_HALF_TOKENS)


def _seconds(part: tuple[str, float]) -> float:
    return part[1]


def _longest(spent: Spent, *parts: tuple[str, float]) -> None:
    name, seconds = max(parts, key=_seconds)
    spent[name] += seconds


def _cheapest(spent: Spent, *parts: tuple[str, float]) -> None:
    name, seconds = min(parts, key=_seconds)
    spent[name] += seconds


def _estimate(spent: Spent, n_tokens: int) -> Estimate:
    total = sum(spent.values())
    bound = max(spent, key=lambda name: spent[name])
    return Estimate(n_tokens / total, _WORDS[bound], {name: s for name, s in spent.items() if s > 0})
