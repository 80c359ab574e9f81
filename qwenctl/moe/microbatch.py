"""How many tokens of a prompt to compute at once, so that reading experts from disk costs least. Pure.

A pass of `u` tokens through a layer reads each expert that it uses and that has no slot, and computes meanwhile:

    used(u)    = E (1 - (1 - k/E)^u)                 experts of E that u tokens with k each meet, if all are as likely
    disk_s     = used(u) (1 - n_slots/E) expert_bytes / disk_bytes_s
    compute_s  = u k expert_macs / rate(u k / used(u))   rate: MAC/s at that many tokens an expert
    arrange_s  = used(u) (1 - n_slots/E) expert_bytes / arrange_bytes_s      on the same cores, between products
    pass_s     = sum over layers of max(disk_s, compute_s + arrange_s) + u × dense part

A prompt of n tokens is ceil(n / u) passes, so larger ones read less. From 64 tokens on nearly all experts are used
(E = 128, k = 8: 98 %), so the even chance of experts errs little, and to the safe side: skewed routing uses fewer.

But activations take memory from the slots, n_slots falls with u, and an answer after the prompt misses more often:

    miss       = (1 - n_slots/E)^x                   of an LRU a layer. x = 5.5 fits what was published for
                                                     Qwen3-30B-A3B: 12 % of the experts 0.47, 24 % 0.20, 40 % 0.05 to
                                                     0.10. With 256 experts and more routing is flatter, x = 2.5:
                                                     18 % 0.57, 36 % 0.38, 54 % 0.28 of a model with 512; with few
                                                     large ones (Mixtral: half of 8 miss 0.35) x = 1.5
    token_s    = sum over layers of k miss expert_bytes / disk_bytes_s + what does not depend on u
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwenctl.moe.model_size import ModelSize
from qwenctl.moe.prefill_rates import PrefillRates

N_UBATCHES = (512, 1024, 2048, 4096)
LONG_PROMPT_TOKENS = 4096  # what the choice is made for, …
ANSWER_TOKENS = 128  # … followed by this
_MISS_EXPONENTS = ((64, 1.5), (192, 5.5))  # below so many experts; from there on:
_FLAT_EXPONENT = 2.5
_WORTH = 1.05  # a larger micro-batch has to be this much faster


@dataclass(frozen=True, slots=True)
class Candidate:
    """A micro-batch that fits, and the slots a layer that its activations leave (on average)."""

    n_ubatch: int
    n_slots: float


def experts_used(n_experts: int, n_used: int, n_tokens: int) -> float:
    """Return how many of a layer's experts `n_tokens` tokens use, if each expert is as likely as the next."""
    return n_experts * (1 - (1 - n_used / n_experts) ** n_tokens)


def prefill_s(model: ModelSize, rates: PrefillRates, candidate: Candidate, n_tokens: int = LONG_PROMPT_TOKENS) -> float:
    """Return the estimated seconds of a prompt of `n_tokens`, attention scores left out."""
    n_full, rest = divmod(n_tokens, candidate.n_ubatch)
    seconds = n_full * _pass_s(model, rates, candidate.n_slots, candidate.n_ubatch) if n_full else 0.0
    return seconds + (_pass_s(model, rates, candidate.n_slots, rest) if rest else 0.0)


def miss_rate(n_experts: int, n_slots: float) -> float:
    """Return the part of a token's experts that are not in a layer's slots."""
    exponent = next((power for most, power in _MISS_EXPONENTS if n_experts < most), _FLAT_EXPONENT)
    rate: float = max(0.0, 1 - n_slots / n_experts) ** exponent
    return rate


def miss_s(model: ModelSize, rates: PrefillRates, n_slots: float) -> float:
    """Return the estimated seconds that a generated token waits for experts without a slot."""
    missing = model.n_experts_used * miss_rate(model.n_experts, n_slots)
    return missing * sum(model.expert_bytes) / rates.disk_bytes_s


def choose_ubatch(model: ModelSize, rates: PrefillRates, candidates: Iterable[Candidate]) -> int:
    """Return the smallest micro-batch that is within 5 % of the fastest, for a long prompt and a short answer.

    Raises:
        ValueError: no candidates.
    """
    timed = [
        (one.n_ubatch, prefill_s(model, rates, one) + ANSWER_TOKENS * miss_s(model, rates, one.n_slots))
        for one in candidates
    ]
    if not timed:
        raise ValueError("no micro-batch to choose from")
    fastest = min(seconds for _, seconds in timed)
    return min(n_ubatch for n_ubatch, seconds in timed if seconds <= _WORTH * fastest)


def _pass_s(model: ModelSize, rates: PrefillRates, n_slots: float, n_tokens: int) -> float:
    used = experts_used(model.n_experts, model.n_experts_used, n_tokens)
    n_products = n_tokens * model.n_experts_used
    rate = rates.expert_rate(n_products / used)
    missing = used * max(0.0, 1 - n_slots / model.n_experts)
    layers = zip(model.expert_bytes, model.expert_macs, strict=True)
    experts_s = sum(
        max(missing * size / rates.disk_bytes_s, n_products * macs / rate + missing * size / rates.arrange_bytes_s)
        for size, macs in layers
    )
    # Half a byte a weight, each one multiplication a token; the embedding is looked up, the head computed for one.
    dense_weights = 2 * max(0, model.dense_bytes - model.embedding_bytes - model.output_bytes)
    return experts_s + n_tokens * dense_weights / rates.dense_macs_s
