"""Choose a type for every tensor so that the whole fits a number of bytes and loses least. Pure.

    minimise Σ damage(tensor, type)   subject to   Σ bytes(tensor, type) <= budget

By Lagrange multipliers (Everett 1963, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum
Allocation of Resources"): for a price of a byte, each tensor takes the type that minimises damage + price·bytes; the
price is the lowest at which all fit. What is then left of the budget, less than one step of one tensor mostly, is spent
by the steps that gain most a byte. No allocation can be better by more than the last step that did not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from quant.errors import BudgetTooSmall

_N_HALVINGS = 100


@dataclass(frozen=True, slots=True)
class Choice:
    """A type that a tensor might have: what it takes and what it loses.

    Args:
        type_name: of quant.ggml_types.
        n_bytes: of the tensor in this type.
        damage: what the model loses by it, in the unit of the sum; not negative.
    """

    type_name: str
    n_bytes: int
    damage: float

    def __post_init__(self) -> None:
        if self.n_bytes < 0 or not self.damage >= 0:
            raise ValueError(f"{self.type_name}: {self.n_bytes} bytes, damage {self.damage}")


@dataclass(frozen=True, slots=True)
class Allocation:
    """One choice a tensor."""

    choices: Mapping[str, Choice]

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(choice.n_bytes for choice in self.choices.values())

    @property
    def damage(self) -> float:
        """Sum of what each loses."""
        return sum(choice.damage for choice in self.choices.values())


def allocate(tensors: Mapping[str, Sequence[Choice]], budget_bytes: int) -> Allocation:
    """Return the choice for each tensor.

    Args:
        tensors: by name, the types it may have, in any order; at least one each.
        budget_bytes: for all of them.

    Raises:
        BudgetTooSmall: not even the smallest types fit.
    """
    frontiers = {name: _frontier(choices) for name, choices in tensors.items()}
    smallest = sum(frontier[0].n_bytes for frontier in frontiers.values())
    if smallest > budget_bytes:
        raise BudgetTooSmall(budget_bytes, smallest)
    chosen = _cheapest_that_fits(frontiers, budget_bytes)
    return Allocation(_spend_rest(frontiers, chosen, budget_bytes))


def _frontier(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that are worth their bytes: ascending in bytes, descending in damage, gain a byte diminishing."""
    frontier: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.n_bytes, one.damage)):
        if frontier and choice.damage >= frontier[-1].damage:
            continue
        while len(frontier) > 1 and _gain(frontier[-1], choice) >= _gain(frontier[-2], frontier[-1]):
            frontier.pop()
        frontier.append(choice)
    return frontier


def _gain(smaller: Choice, larger: Choice) -> float:
    """Damage saved a byte."""
    return (smaller.damage - larger.damage) / (larger.n_bytes - smaller.n_bytes)


def _at_price(frontier: Sequence[Choice], price: float) -> int:
    """Return the index of the choice that is best when a byte costs `price`."""
    best = 0
    while best + 1 < len(frontier) and _gain(frontier[best], frontier[best + 1]) > price:
        best += 1
    return best


def _cheapest_that_fits(frontiers: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, int]:
    def at(price: float) -> dict[str, int]:
        return {name: _at_price(frontier, price) for name, frontier in frontiers.items()}

    def fits(chosen: Mapping[str, int]) -> bool:
        return sum(frontiers[name][index].n_bytes for name, index in chosen.items()) <= budget_bytes

    if fits(free := at(0.0)):
        return free
    low = 0.0
    high = max(_gain(smaller, larger) for frontier in frontiers.values() for smaller, larger in pairwise(frontier))
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(at(middle)) else (middle, high)
    return at(high)


def _spend_rest(
    frontiers: Mapping[str, Sequence[Choice]], chosen: Mapping[str, int], budget_bytes: int
) -> dict[str, Choice]:
    """Take the steps up that still fit, the best a byte first."""
    at = dict(chosen)
    left = budget_bytes - sum(frontiers[name][index].n_bytes for name, index in at.items())
    while True:
        steps = [
            (_gain(frontier[at[name]], frontier[at[name] + 1]), name)
            for name, frontier in frontiers.items()
            if at[name] + 1 < len(frontier) and frontier[at[name] + 1].n_bytes - frontier[at[name]].n_bytes <= left
        ]
        if not steps:
            return {name: frontiers[name][index] for name, index in at.items()}
        name = max(steps)[1]
        left -= frontiers[name][at[name] + 1].n_bytes - frontiers[name][at[name]].n_bytes
        at[name] += 1
