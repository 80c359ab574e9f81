"""Which arrangement of expert weights, and which operation, computes a typical answer fastest. Pure.

    prompt_s = prompt × k × MACs / rate(tokens an expert of a micro-batch)      summed over the layers
    answer_s = answer × k × MACs / rate(1)

With everything in memory, stock llama.cpp is the measure: its better arrangement for prompts and its better one for
answers, each by itself, and what is slower than either is taken only if there is nothing else. Where experts come from
the disk, stock has no arrangement but the file's, and the sum alone counts.

Rates are what was measured on this machine (calibration.py), or, where nothing was, what one machine with AMX gave:
they prefer AMX where there is AMX, and the file's own layout elsewhere. Knows nothing of how rates are measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

from qwenctl.moe.calibration import Calibration
from qwenctl.moe.microbatch import experts_used
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.moe.slot_layout import LayoutName

PROMPT_TOKENS = 2048  # what the choice is made for, …
ANSWER_TOKENS = 256  # … followed by this
_WORTH = 1.03  # anything but the first of equals has to be this much faster
_SLOWER = 1.02  # times what stock takes: no more than this is as fast
_LAYOUTS: tuple[LayoutName, ...] = ("plain", "repack", "amx")
_OPERATIONS = ("id", "expert")  # `id` first: with the plain layout it is what stock llama.cpp computes, bit for bit

# Of one thread, into CPU_REPACK's or AMX's layout: 2.7 and 3.0e9 on the same Xeon, less while products are computed.
_ARRANGE_BYTES_S = 2.5e9

# Xeon with AMX, two threads, experts of 768×2048 in Q4_K: (tokens an expert, MAC/s)
_USUAL: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("plain", "id"): ((1, 31e9), (32, 110e9), (512, 130e9)),
    ("plain", "expert"): ((1, 25e9), (32, 125e9), (512, 165e9)),
    ("repack", "id"): ((1, 41e9), (32, 60e9), (512, 65e9)),
    ("repack", "expert"): ((1, 40e9), (32, 110e9), (512, 116e9)),
    ("amx", "expert"): ((1, 51e9), (32, 180e9), (512, 220e9)),
}


@dataclass(frozen=True, slots=True)
class ExpertKind:
    """Layers whose experts have the same types.

    Attributes:
        name: of the types: "Q4_K", or "Q4_K/Q6_K" where `down` differs.
        n_layers: how many there are.
        macs: multiplications of one token in one expert.
        ways: pairs (layout, operation) that this machine can compute it in.
    """

    name: str
    n_layers: int
    macs: int
    ways: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """What the choice has to know of a model; the most frequent kind first.

    Raises:
        ValueError: no kinds, or no experts used.
    """

    kinds: tuple[ExpertKind, ...]
    n_experts: int
    n_experts_used: int

    def __post_init__(self) -> None:
        if not self.kinds or not 0 < self.n_experts_used <= self.n_experts:
            raise ValueError(f"{len(self.kinds)} kinds, {self.n_experts_used} of {self.n_experts} experts used")


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """What was chosen.

    Attributes:
        layout: of the slots.
        decode_per_expert: compute single tokens with a product an expert; False: with MUL_MAT_ID.
        batch_per_expert: the same for many tokens at once.
        typical_s: estimated seconds of the experts' products in a typical answer.
        stock_s: the same for the faster of stock llama.cpp's two settings (rearranged weights or not).
        slowness: times that the prompt or the answer, whichever is worse, takes of what it takes stock at its best.
    """

    layout: LayoutName
    decode_per_expert: bool
    batch_per_expert: bool
    typical_s: float
    stock_s: float
    slowness: float = 1.0

    @property
    def never_slower(self) -> bool:
        """Whether neither prompts nor answers are slower than stock llama.cpp's with everything in memory."""
        return self.slowness <= _SLOWER

    @property
    def gain(self) -> float:
        """How many times faster than stock llama.cpp with everything in memory."""
        return self.stock_s / self.typical_s


def choose(
    calibration: Calibration | None,
    shape: ExpertShape,
    *,
    layouts: Sequence[str] = _LAYOUTS,
    operations: Sequence[str] = _OPERATIONS,
    n_ubatch: int = PROMPT_TOKENS,
    resident: bool = True,
) -> LayoutChoice | None:
    """Return the fastest way that every layer can be computed in; None: there is none among those allowed.

    Args:
        calibration: what was measured; None or without rates of experts: a usual machine's.
        shape: of the model's experts.
        layouts: those that may be chosen.
        operations: those that may be chosen: "id", "expert".
        n_ubatch: tokens of a prompt that are computed at once.
        resident: whether all experts are in memory.
    """
    rates = _Rates(calibration, shape, n_ubatch)
    timed = [(rates.phases_s(*one), one) for one in _candidates(shape, layouts, operations)]
    if not any(isfinite(sum(phases)) for phases, _ in timed):  # nothing of this was measured
        rates = _Rates(None, shape, n_ubatch)
        timed = [(rates.phases_s(*one), one) for _, one in timed]
    if not timed:
        return None
    stock = [rates.phases_s(*one) for one in _candidates(shape, ("plain", "repack"), ("id",))]
    best = min(prompt_s for prompt_s, _ in stock), min(answer_s for _, answer_s in stock)

    def slowness(phases: tuple[float, float]) -> float:
        return max(phases[0] / best[0], phases[1] / best[1])

    fair = [one for one in timed if slowness(one[0]) <= _SLOWER] if resident else []
    timed = fair or timed
    enough = _WORTH * min(sum(phases) for phases, _ in timed)
    phases, (layout, decode, batch) = next(one for one in timed if sum(one[0]) <= enough)
    stock_s = min(sum(one) for one in stock)
    return LayoutChoice(layout, decode == "expert", batch == "expert", sum(phases), stock_s, slowness(phases))


def prefill_rates(calibration: Calibration | None, shape: ExpertShape, layout: str, n_threads: int = 1) -> PrefillRates:
    """Return what sizing wants to know of this machine, for the most frequent kind of layers.

    Args:
        calibration: what was measured; None: nothing.
        shape: of the model's experts.
        layout: that was chosen.
        n_threads: that compute.
    """
    arrange = inf if layout == "plain" else n_threads * _ARRANGE_BYTES_S
    if calibration is None:
        return PrefillRates(arrange_bytes_s=arrange)
    name = shape.kinds[0].name
    known = any(one.type == name and one.layout == layout for one in calibration.experts)
    return replace(calibration.prefill_rates(name, layout if known else "plain"), arrange_bytes_s=arrange)


def _candidates(
    shape: ExpertShape, layouts: Sequence[str], operations: Sequence[str]
) -> Iterator[tuple[LayoutName, str, str]]:
    """Triples of layout, operation for one token, operation for many; those nearest to stock first."""
    for layout in _LAYOUTS:
        possible = [
            one for one in _OPERATIONS if one in operations and all((layout, one) in kind.ways for kind in shape.kinds)
        ]
        if layout in layouts:
            yield from ((layout, decode, batch) for decode in possible for batch in possible)


@dataclass(frozen=True, slots=True)
class _Rates:
    """Seconds by what was measured; of a usual machine without a calibration."""

    calibration: Calibration | None
    shape: ExpertShape
    n_ubatch: int

    def phases_s(self, layout: str, decode: str, batch: str) -> tuple[float, float]:
        """Return the seconds of a prompt and of an answer; infinity where a rate is not known."""
        shape = self.shape
        used = experts_used(shape.n_experts, shape.n_experts_used, self.n_ubatch)
        tokens_an_expert = self.n_ubatch * shape.n_experts_used / used
        seconds = [0.0, 0.0]
        for kind in shape.kinds:
            work = kind.n_layers * shape.n_experts_used * kind.macs
            for phase, (n_tokens, operation, at_once) in enumerate(
                ((PROMPT_TOKENS, batch, tokens_an_expert), (ANSWER_TOKENS, decode, 1.0))
            ):
                curve = self._curve(kind, layout, operation)
                rate = PrefillRates(expert_macs_s=curve).expert_rate(at_once) if curve else 0.0
                seconds[phase] += n_tokens * work / rate if rate else inf
        return seconds[0], seconds[1]

    def _curve(self, kind: ExpertKind, layout: str, operation: str) -> tuple[tuple[float, float], ...]:
        """Return (tokens an expert, MAC/s); of the nearest relative where this very thing was not measured."""
        if self.calibration is None or not self.calibration.experts:
            return _USUAL.get((layout, operation), ())
        measured = {one.type for one in self.calibration.experts}
        # Rare kinds are not measured, nor is a layout that leaves a kind as it is in the file.
        name = next((one.name for one in (kind, *self.shape.kinds) if one.name in measured), kind.name)
        is_plain = all((one.type, one.layout) != (name, layout) for one in self.calibration.experts)
        return self.calibration.curve(name, "plain" if is_plain else layout, operation)
