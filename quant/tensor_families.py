"""Sum tensors up by family: what a plan and `qwenctl show` print instead of a thousand lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BLOCK = re.compile(r"^blk\.\d+\.")
_NUMBER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, slots=True)
class FamilyTotal:
    """All tensors of one name, layer numbers aside, and one type."""

    family: str
    type_name: str
    n_tensors: int
    n_weights: int
    n_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight."""
        return 8 * self.n_bytes / self.n_weights


def family_of(tensor_name: str) -> str:
    """Return a tensor's name without its layer, numbers and suffix.

    blk.17.ffn_up_exps.weight → ffn_up_exps; model.layers.17.mlp.experts.5.up_proj.weight →
    model.layers.*.mlp.experts.*.up_proj
    """
    return _NUMBER.sub(".*.", _BLOCK.sub("", tensor_name)).removesuffix(".weight")


def total_by_family(tensors: Iterable[tuple[str, str, int, int]]) -> tuple[FamilyTotal, ...]:
    """Return the totals, families in the order in which they first appear.

    Args:
        tensors: (name, type name, number of weights, bytes) of each.
    """
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
    for name, type_name, n_weights, n_bytes in tensors:
        key = (family_of(name), type_name)
        before = sums.get(key, (0, 0, 0))
        sums[key] = (before[0] + 1, before[1] + n_weights, before[2] + n_bytes)
    return tuple(FamilyTotal(family, type_name, *total) for (family, type_name), total in sums.items())
