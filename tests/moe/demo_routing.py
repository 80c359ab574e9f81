"""The recorded routing of the demo model: tests/data/demo_routing.npz, made by scripts/record_demo_trace.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qwenctl.telemetry.routing_steps import RoutingTrace

_STORED = Path(__file__).resolve().parent.parent / "data" / "demo_routing.npz"


def demo_trace() -> RoutingTrace:
    """Return 36 prompts with what the model went on with: 4 layers, 16 experts, 4 of them a token.

    As the program records it: rankings of what is generated, the routed experts alone of prompts.
    """
    with np.load(_STORED) as stored:
        n_layers, n_experts, n_used = (int(n) for n in stored["shape"])
        n_tokens = stored["n_tokens"]
        rows = iter(np.split(stored["ids"], np.cumsum(n_tokens.ravel())[:-1]))
        steps = [
            (layer, next(rows)[:, : None if n == 1 else n_used].ravel().tolist(), int(n))
            for batch in n_tokens
            for layer, n in enumerate(batch)
        ]
    return RoutingTrace.of(n_layers, n_experts, n_used, steps)
