"""A model with experts on devices, run over given tokens in a process of its own: what test_hybrid_step.py looks at.

    python -m tests.moe.hybrid_run JOB.json OUT.npz

The job: gguf, tokens (file), n_decode, n_prompt, endpoints, places [[device, [positions], n_slots], …], n_slots (in
RAM), per_expert, uploads_now, is_near. First `n_decode` tokens one by one, then windows of `n_prompt`, each from an
empty cache.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from quant.gguf_read import read_gguf
from qwenctl.moe.costs import CostCurve, Costs
from qwenctl.moe.device_graphs import workspace_bytes
from qwenctl.moe.device_places import DevicePlace
from qwenctl.moe.devices import DeviceCalls, add_rpc_server
from qwenctl.moe.expert_map import ExpertMap, read_expert_map
from qwenctl.moe.expert_session import ExpertSession, SessionPlan
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.hybrid_devices import DevicePolicy
from qwenctl.moe.prompt_space import PromptSpace
from qwenctl.services.expert_offload import ExpertOffload, open_ggml
from qwenctl.services.native_log import native_log

# A device so quick, and so near, that all it can take goes there.
_EAGER = Costs(CostCurve((1,), (1.0,)), CostCurve((1,), (1e-3,)), 0.0, 1.0, 1e-3, 1e-3)


def places_of(ggml: Ggml, experts: ExpertMap, job: dict[str, Any]) -> list[DevicePlace]:
    calls = DeviceCalls(ggml)
    devices = [add_rpc_server(calls, endpoint, register=False)[0] for endpoint in job["endpoints"]]
    places = []
    for device, positions, n_slots in job["places"]:
        layers = [experts.layers[position] for position in positions]
        widths = max(one.tensors[0].n_in for one in layers), max(one.tensors[-1].n_in for one in layers)
        budget = sum(one.expert_bytes for one in layers) * n_slots + workspace_bytes(widths, 512)
        largest = max(one.expert_bytes for one in layers) + 4096
        prompts = PromptSpace(*widths, experts.n_experts_used, job["n_prompt"], largest)
        places.append(DevicePlace(devices[device], tuple(positions), budget, prompts))
    return places


def main(job: dict[str, Any], out: Path) -> None:
    native_log()
    llama_cpp.llama_backend_init()
    gguf = read_gguf(Path(job["gguf"]))
    experts = read_expert_map(gguf)
    assert experts is not None
    ggml = open_ggml()
    n_layers = len(experts.layers)
    plan = SessionPlan(
        n_slots=(job["n_slots"],) * n_layers,
        ring_slots=8,
        layout="plain",
        decode_per_expert=job["per_expert"],
        batch_per_expert=job["per_expert"],
        n_threads=1,
        n_io_threads=2,
        wave_rows=1024,
    )
    policy = DevicePolicy(_EAGER, learns=False, uploads_now=job["uploads_now"], is_near=job["is_near"])
    session = ExpertSession(ggml, experts, plan, devices=places_of(ggml, experts, job), device_policy=policy)
    offload = ExpertOffload(None, session, experts, gguf)  # type: ignore[arg-type]
    if job["is_near"] and job["n_slots"] == experts.n_experts:
        session.fill()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts, params.n_gpu_layers = False, 0
    model = offload.load(params, job["gguf"])
    assert model
    logits = run(model, session, np.load(job["tokens"]), job["n_decode"], job["n_prompt"])
    facts: dict[str, Any] = session.counters()
    if session.devices is not None:
        devices = session.devices
        devices.settle(wait=True)
        facts["devices"] = devices.as_json()
    session.check_integrity()
    np.savez(out, logits=logits, facts=json.dumps(facts))
    llama_cpp.llama_model_free(model)
    session.close()


def run(model: Any, session: ExpertSession, tokens: Any, n_decode: int, n_prompt: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = max(n_decode, n_prompt) + 64
    params.n_batch = params.n_ubatch = max(n_prompt, 64)
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type, params.no_perf = 0, True
    context = llama_cpp.llama_init_from_model(model, params)
    assert context
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = []
    start = 0
    while start < len(tokens):
        n_window = n_decode if start == 0 else n_prompt
        n_step = 1 if start == 0 else n_prompt
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        for position in range(0, n_window, n_step):
            chunk = tokens[start + position : start + position + n_step]
            rows.append(decode(context, session, chunk, position, n_vocab))
        start += n_window
    llama_cpp.llama_free(context)
    return np.concatenate(rows)


def decode(context: Any, session: ExpertSession, tokens: Any, position: int, n_vocab: int) -> Any:
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index] = int(token), position + index
        batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
    batch.n_tokens = len(tokens)
    status = llama_cpp.llama_decode(context, batch)
    error = session.take_error()
    if error is not None:
        raise error
    assert status == 0
    address = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.c_void_p).value
    assert address
    count = len(tokens) * n_vocab
    copied = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).copy()
    llama_cpp.llama_batch_free(batch)
    return copied.reshape(len(tokens), n_vocab)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
