"""Prints what a conversion would do: `qwenctl convert --dry-run`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quant.budget import BudgetedTypes
from qwenctl.cli.families_table import print_families
from qwenctl.cli.output import Output
from qwenctl.services.type_choice import ChosenPlan
from qwenctl.units import format_bytes, format_count


def print_plan(chosen: ChosenPlan, output: Output) -> None:
    """Print every tensor with its type, the families, the file, and what a budget expects of it."""
    planned = chosen.plan
    if output.json_mode:
        output.data(_document(chosen))
        return
    output.table(
        ("TENSOR", "SHAPE", "TYPE", "BYTES"),
        [
            (tensor.name, " x ".join(map(str, tensor.shape)), tensor.type.name, f"{tensor.n_bytes:,}")
            for tensor in planned.layout.placed
        ],
        right=(3,),
    )
    output.line()
    print_families(planned.family_totals(), output)
    output.line()
    output.fields(
        [
            ("architecture", planned.model.architecture),
            ("type", planned.output.name),
            ("tensors", len(planned.layout.placed)),
            ("weights", f"{format_count(planned.n_weights)} ({planned.n_weights:,})"),
            ("bits a weight", f"{planned.bits_per_weight:.2f}"),
            ("file", f"{format_bytes(planned.total_bytes)} ({planned.total_bytes:,} bytes)"),
            *_expectations(chosen.budgeted),
        ]
    )


def _expectations(budgeted: BudgetedTypes | None) -> list[tuple[str, str]]:
    """What a budget expects, beside llama.cpp's mixture of about the same size."""
    if budgeted is None:
        return []
    found = [("expected loss", f"{budgeted.damage:.2e} nats of KLD, on the scale of the demo model")]
    if budgeted.stock is not None:
        stock = budgeted.stock
        share = budgeted.damage / stock.damage if stock.damage else 1.0
        size = (budgeted.n_bytes - stock.n_bytes) / stock.n_bytes
        found.append((f"beside {stock.output.name}", f"{share:.2f} of its expected loss, {size:+.1%} in size"))
    return found


def _document(chosen: ChosenPlan) -> dict[str, Any]:
    planned = chosen.plan
    return {
        "source": str(planned.source),
        "architecture": planned.model.architecture,
        "type": planned.output.name,
        "n_weights": planned.n_weights,
        "bits_per_weight": round(planned.bits_per_weight, 4),
        "total_bytes": planned.total_bytes,
        "header_bytes": len(planned.layout.header),
        "alignment": planned.layout.alignment,
        "expected": _expected(chosen.budgeted),
        "families": [asdict(total) for total in planned.family_totals()],
        "tensors": [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "type": tensor.type.name,
                "offset_bytes": tensor.offset_bytes,
                "n_bytes": tensor.n_bytes,
            }
            for tensor in planned.layout.placed
        ],
    }


def _expected(budgeted: BudgetedTypes | None) -> dict[str, Any] | None:
    if budgeted is None:
        return None
    stock = budgeted.stock
    return {
        "loss_nats": budgeted.damage,
        "beside": None
        if stock is None
        else {"type": stock.output.name, "loss_nats": stock.damage, "n_bytes": stock.n_bytes},
    }
