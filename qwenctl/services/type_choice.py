"""What a conversion makes of each tensor: by one of the mixtures, by a budget that is measured out, or by a recipe.

    --type q4_k_m          llama.cpp's rules, or ours for the names that end in +
    --budget 4.5bpw        quant.budget: measured errors under a limit
    --recipe FILE          a choice that a budget made before, or a person

Reads the checkpoint, writes at most the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from quant.budget import Budget, BudgetedTypes, choose_under_budget
from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import ConversionPlan, ConversionSource, Importance, plan_source
from quant.libggml import load_libggml
from quant.recipe import OUTPUT_TYPES, OutputType, find_output_type
from quant.recipe_file import read_recipe, types_of, write_recipe
from qwenctl.errors import InvalidRequest
from qwenctl.services.machine_limits import usable_cores
from qwenctl.units import parse_bytes

_BITS = re.compile(r"(\d{1,2}(?:\.\d{1,4})?)\s*bpw", re.IGNORECASE)
_LEAST_BITS, _MOST_BITS = 2.0, 16.0


@dataclass(frozen=True, slots=True)
class TypeRequest:
    """What was asked for. A `budget` makes the choice; otherwise a recipe that exists, otherwise `output_type`.

    `recipe` is written where there is a budget, and read where there is none.
    """

    output_type: str = "q4_k_m"
    budget: Budget | None = None
    recipe: Path | None = None
    quality: str = "fast"


@dataclass(frozen=True, slots=True)
class ChosenPlan:
    """The plan, and what a budget weighed up for it."""

    plan: ConversionPlan
    budgeted: BudgetedTypes | None = None


def parse_budget(text: str) -> Budget:
    """Return the budget that `text` names: "4.5bpw" or a size, "130GB".

    Raises:
        ValueError: neither; the message says what is.
    """
    match = _BITS.fullmatch(text.strip())
    if match is None:
        try:
            return Budget(n_bytes=parse_bytes(text))
        except ValueError:
            raise ValueError(f"{text!r} is not a budget; write bits a weight, 4.5bpw, or a size, 130GB") from None
    bits = float(match[1])
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise ValueError(f"{text!r} is not between {_LEAST_BITS:g} and {_MOST_BITS:g} bits a weight")
    return Budget(bits=bits)


def choose_plan(
    source: ConversionSource,
    request: TypeRequest,
    importance: Importance | None,
    *,
    n_threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> ChosenPlan:
    """Return what to write.

    Args:
        source: the checkpoint.
        request: what was asked for.
        importance: what errors are weighed by.
        n_threads: that measure; None: as many as this process may use.
        on_progress: called with (tensors measured, of how many).

    Raises:
        BudgetTooSmall, RecipeMismatch, ImatrixMismatch, UnsupportedTensor, JsonFileError: see quant.
        InvalidRequest: the recipe cannot be written.
    """
    if request.budget is not None:
        return _by_budget(source, request.budget, request, importance, n_threads or usable_cores(), on_progress)
    if request.recipe is not None:
        recipe = read_recipe(request.recipe)
        types = types_of(recipe, source.model.architecture, source.shapes)
        output = _named(recipe.name or request.recipe.stem, source, OUTPUT_TYPES["q4_k_m"])
        return ChosenPlan(plan_source(source, output, types=types, importance=importance))
    return ChosenPlan(plan_source(source, find_output_type(request.output_type), importance=importance))


def _by_budget(  # noqa: PLR0917 - what was decided so far
    source: ConversionSource,
    budget: Budget,
    request: TypeRequest,
    importance: Importance | None,
    n_threads: int,
    on_progress: Callable[[int, int], None],
) -> ChosenPlan:
    encoder = make_row_encoder(load_libggml(), request.quality)
    chosen = choose_under_budget(
        source, budget, encoder, importance=importance, n_threads=n_threads, on_progress=on_progress
    )
    if request.recipe is not None:
        try:
            write_recipe(chosen.recipe, request.recipe)
        except OSError as error:
            raise InvalidRequest(f"{request.recipe} cannot be written: {error.strerror or error}") from error
    types = types_of(chosen.recipe, source.model.architecture, source.shapes)
    stock = OUTPUT_TYPES["q4_k_m"] if chosen.stock is None else chosen.stock.output
    return ChosenPlan(
        plan_source(source, _named(str(budget), source, stock), types=types, importance=importance), chosen
    )


def _named(name: str, source: ConversionSource, stock: OutputType) -> OutputType:
    """Return `stock` under another name: GGUF's file type has no number for mixtures of our own."""
    return replace(stock, name=name, summary=f"chosen for {source.folder.name}")
