"""Choose types under a budget for a checkpoint: measure what each costs each tensor, then allocate.

    sampled rows ─► relative errors (type_error) ─► × sensitivity of the family ─► allocation ─► a recipe

Deterministic: the same checkpoint, importance matrix and encoder give the same choice, so a conversion that was stopped
goes on. Reads weights, writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

from quant.allocation import Choice, allocate
from quant.codecs.row_encoder import RowEncoder
from quant.conversion_plan import ALIGNMENT_BYTES, ConversionSource, Importance, plan_source
from quant.errors import BudgetTooSmall
from quant.ggml_types import GGML_TYPES, GgmlType
from quant.gguf_format import padded
from quant.imatrix import Imatrix
from quant.imatrix_fit import check_fits
from quant.recipe import OUTPUT_TYPES, OutputType, choose_types, is_fixed
from quant.recipe_file import TypeRecipe
from quant.sensitivity import sensitivity
from quant.tensor_names import TargetTensor
from quant.tensor_read import TensorReader
from quant.type_error import relative_errors

CANDIDATES = tuple(GGML_TYPES[name] for name in ("IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "BF16"))
"""For rows of whole super-blocks."""

SMALLER = tuple(GGML_TYPES[name] for name in ("Q2_K", "Q3_K"))
"""Looked at only where a budget asks for them: they lose much, and ggml's own encoders write them."""

SMALL_BLOCKS = tuple(GGML_TYPES[name] for name in ("IQ4_NL", "Q5_0", "Q5_1", "Q8_0", "BF16"))
"""For rows that super-blocks do not divide."""

_STOCK = ("iq4_xs", "q4_k_s", "q4_k_m", "q5_k_m", "q6_k", "q8_0")

_LEAST_BITS = CANDIDATES[0].bits_per_weight


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a file may be: `n_bytes`, or `bits` a weight over all its tensors. One of the two."""

    n_bytes: int | None = None
    bits: float | None = None

    def __post_init__(self) -> None:
        if (self.n_bytes is None) == (self.bits is None):
            raise ValueError("a budget is a number of bytes or of bits a weight")

    def for_tensors(self, n_weights: int, header_bytes: int) -> int:
        """Return the bytes that the data of all tensors may take."""
        if self.n_bytes is not None:
            return self.n_bytes - header_bytes
        return int((self.bits or 0.0) * n_weights / 8)

    def counted(self, n_bytes: int) -> int:
        """Return what a tensor takes of the budget: in a file it is followed by the padding of its last page."""
        return n_bytes if self.n_bytes is None else padded(n_bytes, ALIGNMENT_BYTES)

    def __str__(self) -> str:
        return f"{self.bits:g}bpw" if self.bits is not None else f"{self.n_bytes}B"


@dataclass(frozen=True, slots=True)
class StockMixture:
    """One of llama.cpp's mixtures, judged alike."""

    output: OutputType
    n_bytes: int  # of all tensors
    damage: float


@dataclass(frozen=True, slots=True)
class BudgetedTypes:
    """What was chosen, and what it is expected to cost beside llama.cpp's mixture of about its size.

    `damage` is the sum of sensitivity times relative error: nats of KLD on the demo's scale. `stock` is None where the
    mixture has types that were not measured.
    """

    recipe: TypeRecipe
    n_bytes: int  # of all tensors
    damage: float
    stock: StockMixture | None


def choose_under_budget(
    source: ConversionSource,
    budget: Budget,
    encoder: RowEncoder,
    *,
    importance: Importance | None = None,
    n_threads: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> BudgetedTypes:
    """Return the types that lose least among those that fit.

    Args:
        source: the checkpoint.
        budget: for the file, or a weight.
        encoder: the one that will encode.
        importance: what errors are weighed by.
        n_threads: that measure.
        on_progress: called on this thread with (tensors measured, of how many).

    Raises:
        BudgetTooSmall: not even the smallest types fit.
        BadWeights, FileFormatError: the source holds what cannot be stored, or cannot be read.
        ImatrixMismatch: it is another model's.
    """
    imatrix = None if importance is None else check_fits(importance.imatrix, source.shapes).imatrix
    free = [target for target in source.targets if not is_fixed(target.name, target.shape)]
    room = _room(source, budget, importance, {target.name for target in free})
    with_smaller = room < _LEAST_BITS * sum(prod(target.shape) for target in free) / 8 * 1.02
    measure = _Measure(source, budget, imatrix, encoder, with_smaller=with_smaller)
    choices: dict[str, list[Choice]] = {}
    with ThreadPoolExecutor(n_threads) as pool, measure.reader:
        for target, found in zip(free, pool.map(measure, free), strict=True):
            choices[target.name] = found
            on_progress(len(choices), len(free))
    chosen = allocate(choices, room)
    types = {name: chosen.choices[name].type_name if name in choices else "F32" for name in source.shapes}
    recipe = TypeRecipe(source.model.architecture, str(budget), {name: GGML_TYPES[types[name]] for name in choices})
    stock = _nearest_stock(source, choices, chosen.n_bytes, has_imatrix=imatrix is not None)
    return BudgetedTypes(recipe, chosen.n_bytes, chosen.damage, stock)


def _room(source: ConversionSource, budget: Budget, importance: Importance | None, free: set[str]) -> int:
    """Return the bytes for the tensors `free`: the budget less the header and all that stays F32.

    Raises:
        BudgetTooSmall: nothing is left.
    """
    plan = plan_source(source, OUTPUT_TYPES["q4_k_m"], importance=importance)
    fixed = sum(budget.counted(tensor.n_bytes) for tensor in plan.layout.placed if tensor.name not in free)
    room = budget.for_tensors(plan.n_weights, len(plan.layout.header)) - fixed
    if room <= 0:
        raise BudgetTooSmall(max(0, room), fixed)
    return room


class _Measure:
    """The choices of one tensor. Called from several threads."""

    def __init__(
        self,
        source: ConversionSource,
        budget: Budget,
        imatrix: Imatrix | None,
        encoder: RowEncoder,
        *,
        with_smaller: bool,
    ) -> None:
        self._source, self._budget, self._imatrix = source, budget, imatrix
        self._encoder, self._with_smaller = encoder, with_smaller
        self._tied = all(target.name != "output.weight" for target in source.targets)
        self.reader = TensorReader(source.files)

    def __call__(self, target: TargetTensor) -> list[Choice]:
        entry = None if self._imatrix is None else self._imatrix.entries.get(target.name)
        types = self._types(target)
        errors = relative_errors(target, types, entry, self.reader, self._encoder)
        weight = sensitivity(target.name, self._source.model.n_layers, tied=self._tied)
        return [
            Choice(one.name, self._budget.counted(one.tensor_bytes(target.shape)), weight * errors[one.name])
            for one in types
        ]

    def _types(self, target: TargetTensor) -> tuple[GgmlType, ...]:
        n_columns = target.shape[-1]
        if not GGML_TYPES["Q4_K"].divides(n_columns):
            return tuple(one for one in SMALL_BLOCKS if one.divides(n_columns))
        looked_up = target.name == "token_embd.weight"  # row by row, for which IQ4_XS and Q2_K are slow on GPUs
        return (SMALLER if self._with_smaller and not looked_up else ()) + CANDIDATES


def _nearest_stock(
    source: ConversionSource, choices: Mapping[str, list[Choice]], n_bytes: int, *, has_imatrix: bool
) -> StockMixture | None:
    """Return llama.cpp's mixture that is nearest in size to `n_bytes` of the tensors in `choices`."""
    measured = {(name, choice.type_name): choice for name, found in choices.items() for choice in found}
    mixtures = []
    for name in _STOCK:
        types = choose_types(OUTPUT_TYPES[name], source.model, list(source.shapes.items()), has_imatrix=has_imatrix)
        parts = [measured.get((tensor, types[tensor].name)) for tensor in choices]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            total = sum(part.n_bytes for part in known)
            mixtures.append(StockMixture(OUTPUT_TYPES[name], total, sum(part.damage for part in known)))
    return min(mixtures, key=lambda one: abs(one.n_bytes - n_bytes), default=None)
