"""Made-up routing with the locality that was measured on real models, to compare policies where there is no recording.

A router's logits are a linear image of the hidden state, so an expert's logit is a sum of parts that change at
different speeds, and the largest n_used are routed to; the order of all is the router's ranking (all parts normal;
standard deviations in units of the noise):

    bias      for the whole trace           popular and unpopular experts
    topic     drawn anew for each prompt    what the text is about
    drift     changes over ~drift_tokens    where the text is
    burst     changes over ~burst_tokens    phrases
    noise     drawn anew for each token     1

Experts are independent of each other. Knows nothing of policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenctl.telemetry.routing_steps import RoutingStep, RoutingTrace

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Locality:
    """How much the parts of the logits vary.

    Attributes:
        n_experts: experts of each layer.
        n_used: experts of each token.
        bias, topic, drift, burst: standard deviations; the noise has 1.
        drift_tokens, burst_tokens: after so many tokens 37 % of a part are left.
        prompt_tokens: length of a prompt with its answer.
        spread: the layers' deviations are these times 1 - spread … 1 + spread.
        first_layer: the first layer's are these times it; small: near uniform.
    """

    n_experts: int
    n_used: int
    bias: float
    topic: float
    drift: float
    drift_tokens: float
    burst: float
    burst_tokens: float
    prompt_tokens: int = 300
    spread: float = 0.0
    first_layer: float = 1.0


QWEN3_30B_A3B = Locality(
    128, 8, bias=1.13, topic=1.22, drift=0.6, drift_tokens=80, burst=1.15, burst_tokens=3, spread=0.15, first_layer=0.3
)
"""45 % of the experts repeat with the next token, 80 % within 8; per-layer LRU over 40 % hits 90-95 %, a profile of
40 % hits 68-73 %; 90 % of the uses fall on 58-65 experts; layer 0 is near uniform (imp #1358 and #1359, mcp-tool-shop,
BigMoeOnEdge).
"""

QWEN3_8_FLASH_NEXT = Locality(
    512, 10, bias=0.05, topic=0.07, drift=0.73, drift_tokens=40, burst=1.08, burst_tokens=2, spread=0.0
)
"""LRU over 93, 186, 279, 372, 512 of 512 hits 43.5, 62, 72, 79, 85 % (imp #2061); 85 % with room for all of them says
that the trace was about 340 tokens long and began with empty slots.
"""


def synthetic_trace(locality: Locality, n_layers: int, n_tokens: int, seed: int) -> RoutingTrace:
    """Return `n_tokens` steps of one token in each of `n_layers` layers, with rankings; the same for the same seed."""
    generator = np.random.default_rng(seed)
    scales = 1.0 + locality.spread * generator.uniform(-1.0, 1.0, n_layers)
    scales[0] = locality.first_layer
    layers = [_layer(locality, float(scale), n_tokens, generator).tolist() for scale in scales]
    steps = tuple(
        RoutingStep.of(layer, tuple(rows[token]), 1, locality.n_used)
        for token in range(n_tokens)
        for layer, rows in enumerate(layers)
    )
    return RoutingTrace(n_layers, locality.n_experts, locality.n_used, steps)


def _layer(locality: Locality, scale: float, n_tokens: int, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return the experts of one layer by their logits, the largest first, (n_tokens, n_experts)."""
    n_prompts = -(-n_tokens // locality.prompt_tokens)
    topics = generator.normal(0.0, locality.topic, (n_prompts, locality.n_experts))
    logits = np.repeat(topics, locality.prompt_tokens, axis=0)[:n_tokens]
    logits += generator.normal(0.0, locality.bias, locality.n_experts)
    logits += _wandering(locality.drift, locality.drift_tokens, logits.shape, generator)
    logits += _wandering(locality.burst, locality.burst_tokens, logits.shape, generator)
    logits *= scale
    logits += generator.normal(0.0, 1.0, logits.shape)
    return np.argsort(-logits, axis=1)


def _wandering(deviation: float, tokens: float, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Return a stationary first-order process along axis 0: normal, correlation exp(-distance / tokens)."""
    kept = float(np.exp(-1.0 / tokens))
    values = generator.normal(0.0, deviation, shape)
    values[1:] *= np.sqrt(1.0 - kept * kept)
    for row in range(1, len(values)):
        values[row] += kept * values[row - 1]
    return values
