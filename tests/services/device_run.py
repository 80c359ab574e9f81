"""Open a model with remote devices in ways that a test names, each time saying what llama.cpp put where.

    python -m tests.services.device_run MODEL '[{"devices": ["RPC0"], "split": [3, 1], …}, …]' HOST:PORT …

Prints one JSON object a way: counts and device names as planned, layers as llama.cpp assigned them, tensors kept in
main memory, and logits. A process of its own, because RPC devices stay registered.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from quant.libggml import load_libggml
from qwenctl.errors import QwenctlError
from qwenctl.moe.devices import DeviceCalls, add_rpc_server
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.logits import LogitsModel
from qwenctl.services.native_log import native_log
from qwenctl.services.native_model import open_native_model

ASSIGNED = re.compile(r"load_tensors: layer +(\d+) assigned to device (\w+)")
OVERRIDDEN = re.compile(r"tensor (blk\.\d+\.\S+) .*overridden to CPU")
N_TOKENS = 24


def main(path: Path, ways: list[dict[str, Any]], endpoints: list[str]) -> None:
    log = native_log()
    lines: list[str] = []
    log.forward = lambda line: lines.append(line.text)
    calls = DeviceCalls(Ggml(load_libggml().path.parent))
    for endpoint in endpoints:
        add_rpc_server(calls, endpoint)
    for way in ways:
        lines.clear()
        try:
            sys.stdout.write(json.dumps(opened(path, way, lines)) + "\n")
        except QwenctlError as error:
            sys.stdout.write(json.dumps({"error": error.message}) + "\n")


def opened(path: Path, way: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    offload = OffloadOptions(
        way.pop("mode", "off"), vram_bytes=way.pop("vram_bytes", None), n_slots=way.pop("slots", None)
    )
    way = {name: tuple(value) if isinstance(value, list) else value for name, value in way.items()}
    fixed = {"n_ctx": 256, "n_threads": 1, "n_outputs": N_TOKENS, "n_ubatch": 64, "repack": False}
    options = EngineOptions(**fixed, flash_attention=False, offload=offload, **way)
    model, thread = open_native_model(path, options)
    stock, plan = model._stock, model._offload.plan.devices if model._offload else None
    placed = stock or plan
    tokens = np.arange(N_TOKENS, dtype=np.int32)[None] % model.vocabulary.n_tokens
    (block,) = LogitsModel(model, thread, options).compute(tokens)
    found = {
        "devices": [device.name for device in model._devices.devices],
        "counts": list(placed.layer_counts) if placed else [],
        "layers": {int(m[1]): m[2] for line in lines if (m := ASSIGNED.search(line))},
        "overridden": sorted({m[1] for line in lines if (m := OVERRIDDEN.search(line))}),
        "cpu_experts": list(stock.cpu_experts) if stock else [],
        "placement": model.placement,
        "logits": block.logits[:, :8].tolist(),
    }
    thread.run(model.close)
    thread.close()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])
