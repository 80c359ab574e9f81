"""The table of tensor families that `convert --dry-run` and `show` print."""

from __future__ import annotations

from collections.abc import Sequence

from quant.tensor_families import FamilyTotal
from qwenctl.cli.output import Output
from qwenctl.units import format_bytes, format_count


def print_families(totals: Sequence[FamilyTotal], output: Output) -> None:
    """Print one line for each family and type."""
    output.table(
        ("FAMILY", "TYPE", "TENSORS", "WEIGHTS", "BYTES", "BITS"),
        [
            (
                total.family,
                total.type_name,
                total.n_tensors,
                format_count(total.n_weights),
                format_bytes(total.n_bytes),
                f"{total.bits_per_weight:.2f}",
            )
            for total in totals
        ],
        right=(2, 3, 4, 5),
    )
