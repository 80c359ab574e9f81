"""The exact commands that a plan ends in, and the road past this program: an AWQ export that vLLM serves. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from qwenctl.moe.context_memory import kv_cache_bytes
from qwenctl.planning.plan import RunPlan

SourceKind = Literal["gguf", "checkpoint", "hub", "hub gguf"]
"""Where a model is, and in which form."""

_AWQ_BITS = 4.16  # a weight of a linear layer: groups of 128 with scale and zero
_GROUP = 128
_VLLM_SHARE = 0.9  # of a device's memory, vLLM's default
_VLLM_OTHER_BYTES = 3 << 30  # of a device: activations and graphs
_LEAST_BYTES = 40 << 30  # of all devices: below, one user is served best by the command above


@dataclass(frozen=True, slots=True)
class VllmRoad:
    """How vLLM would serve the model on the same machine.

    Attributes:
        export: the command that makes the AWQ folder.
        serve: the command that serves it.
        weights_bytes: of the export, all devices together.
        fits: whether weights and one context of the length asked for fit.
    """

    export: str
    serve: str
    weights_bytes: int
    fits: bool


def model_label(plan: RunPlan) -> str:
    """Return a good name for the model's file."""
    name = plan.model.outline.name.lower()
    return name if plan.model.quant is None else f"{name}-{plan.model.quant}"


def run_commands(plan: RunPlan, asked: str, origin: SourceKind, rpc: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the commands, in order: have the model, run it.

    Args:
        plan: what was planned.
        asked: the model as the user named it.
        origin: where it is.
        rpc: workers whose devices are used.
    """
    name, first = model_label(plan), []
    if origin == "gguf":
        name = asked
    elif origin == "checkpoint":
        first = [f"qwenctl convert {_quoted(asked)} {name} --type {plan.model.quant}"]
    elif origin == "hub":
        first = [f"qwenctl pull {asked} --quant {plan.model.quant}"]
    else:
        first = [f"qwenctl pull {asked}"]
    request = plan.request
    options = [f"--ctx {_tokens(request.n_ctx)}"]
    if request.kv_type != "f16":
        options.append(f"--kv-type {request.kv_type}")
    if rpc:
        options.append(f"--rpc {','.join(rpc)}")
    if request.n_parallel > 1:
        run = f"qwenctl batch {_quoted(name)} prompts.jsonl -o answers.jsonl --parallel {request.n_parallel}"
    else:
        run = f"qwenctl chat {_quoted(name)}"
    return (*first, " ".join([run, *options]))


def vllm_road(plan: RunPlan, asked: str, origin: SourceKind) -> VllmRoad | None:
    """Return the road to vLLM; None: too small a machine, or a model that is not exported."""
    devices, outline, shape = plan.machine.memory.devices, plan.model.outline, plan.model.shape
    if origin in ("gguf", "hub gguf") or not outline.converts or sum(one.total_bytes for one in devices) < _LEAST_BYTES:
        return None
    n_devices = _tensor_parallel(len(devices), shape.n_head)
    tables = [one for name, one in outline.shapes.items() if name in ("token_embd.weight", "output.weight")]
    table_weights = sum(prod(one) for one in tables)
    weights = int((plan.model.n_weights - table_weights) * _AWQ_BITS / 8) + 2 * table_weights
    # Heads of keys and values are shared out; with fewer heads than devices each device has a copy of one.
    copies = max(1, n_devices // shape.n_head_kv)
    cache = kv_cache_bytes(shape, plan.request.n_ctx, plan.request.n_parallel) * copies // n_devices
    smallest = min(one.total_bytes for one in devices)
    fits = weights // n_devices + cache + _VLLM_OTHER_BYTES <= _VLLM_SHARE * smallest
    folder = f"{outline.name.lower()}-awq"
    options = [f"--tensor-parallel-size {n_devices}", f"--max-model-len {plan.request.n_ctx}"]
    if shape.n_experts and shape.n_ff_expert // n_devices % _GROUP:
        options.append("--enable-expert-parallel")  # an expert's columns cannot be cut within a group of scales
    verb = "pull" if origin == "hub" else "convert"
    export = f"qwenctl {verb} {_quoted(asked)} {folder} --format awq"
    return VllmRoad(export, f"vllm serve ./{folder} {' '.join(options)}", weights, fits)


def _tensor_parallel(n_devices: int, n_heads: int) -> int:
    """Return the largest power of two of devices that the heads can be shared out to."""
    count = 1
    while 2 * count <= n_devices and n_heads % (2 * count) == 0:
        count *= 2
    return count


def _tokens(n_tokens: int) -> str:
    return f"{n_tokens // 1024}k" if n_tokens % 1024 == 0 else str(n_tokens)


def _quoted(text: str) -> str:
    plain = all(char.isalnum() or char in "-_./:@+~" for char in text)
    return text if plain else "'" + text.replace("'", "'\\''") + "'"
