"""How a report on experts is shown: a heat map and tables for people, one document, or one line an expert.

Knows nothing of how the report came about.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from statistics import median_low
from typing import Any, NamedTuple

from rich.text import Text

from qwenctl.cli.errors import one_line
from qwenctl.cli.heat_map import Layout, lay_out, legend, plain_row, styled_row, to_text
from qwenctl.cli.output import Output
from qwenctl.services.expert_report import ExpertReport
from qwenctl.telemetry.routing_counts import LayerUse
from qwenctl.units import format_memory

_DIGITS = 6  # of shares and rates in JSON
_MOST_WARNINGS = 8


class _Measure(NamedTuple):
    """A row of the table of layers."""

    label: str
    value: Callable[[LayerUse], float | None]
    format: Callable[[float], str]


_MEASURES = (
    _Measure("entropy (1: even use)", lambda use: use.entropy, "{:.3f}".format),
    _Measure("Gini coefficient (0: even use)", lambda use: use.gini, "{:.3f}".format),
    _Measure("uses on the most used 10 %", lambda use: use.top_10_share, "{:.1%}".format),
    _Measure("uses on the most used 30 %", lambda use: use.top_30_share, "{:.1%}".format),
    _Measure("experts with 90 % of the uses", lambda use: use.n_for_90, "{:.0f}".format),
    _Measure("experts never used", lambda use: use.n_unused, "{:.0f}".format),
    _Measure("used by the next token again", lambda use: use.repeat_rate, "{:.1%}".format),
    _Measure("median tokens until used again", lambda use: use.median_reuse_tokens, "{:g}".format),
)


def show_report(report: ExpertReport, output: Output, columns: int) -> None:
    """Write the report for a person.

    Args:
        report: what to show.
        output: gets it on standard output.
        columns: of the terminal.
    """
    output.line(f"{one_line(report.model)}: {report.n_used} of {report.n_experts} experts a token, {_tokens(report)}")
    output.line()
    _show_map(report, output, columns - 1)  # a full line leaves the cursor in limbo
    output.line()
    _show_measures(report, output)
    output.line()
    _show_budgets(report, output)
    _show_warnings(report, output)


def report_document(report: ExpertReport) -> dict[str, Any]:
    """Return the report as the JSON document of `--json`."""
    return {
        "model": report.model,
        "n_layers": report.n_layers,
        "n_experts": report.n_experts,
        "n_experts_used": report.n_used,
        "n_tokens": report.n_tokens,
        "layers": [_layer_document(use) for use in report.layers],
        "budgets": [_rounded(asdict(budget)) for budget in report.budgets],
        "warnings": list(report.warnings),
        "n_tokens_needed": report.n_tokens_needed,
    }


def report_csv(report: ExpertReport) -> str:
    """Return one line for each layer and expert: how often it was used, and as what share of the layer's uses."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "expert", "uses", "share"))
    for use in report.layers:
        total = sum(use.uses)
        writer.writerows((use.layer, expert, n, n / total) for expert, n in enumerate(use.uses))
    return text.getvalue()


def _tokens(report: ExpertReport) -> str:
    n_shown = len(report.layers)
    return f"{n_shown} of {report.n_layers} layers; {report.n_tokens:,} tokens"


def _show_map(report: ExpertReport, output: Output, columns: int) -> None:
    styled = output.styles_stdout
    label = len(str(max(use.layer for use in report.layers)))
    frame = label + len(" ||  0.000")
    layout = lay_out(report.n_experts, columns - frame, styled=styled)
    shared = f", {layout.n_shared} in a column" if layout.n_shared > 1 else ""
    output.line(f"Layers down, experts 0 to {report.n_experts - 1} across{shared}, entropy on the right.")
    output.line("Uses of an expert, as a multiple of an even share:")
    for line in _wrapped(legend(styled=styled), columns):
        output.line(to_text(line, styled=styled))
    for use in report.layers:
        output.line(f"{use.layer:>{label}} {_row(use, layout, styled=styled)}  {use.entropy:.3f}")


def _row(use: LayerUse, layout: Layout, *, styled: bool) -> str:
    if styled:
        return to_text(styled_row(use.multiples, layout), styled=True)
    return f"|{plain_row(use.multiples, layout)}|"


def _wrapped(pieces: list[Text], columns: int) -> list[Text]:
    lines = [pieces[0].copy()]
    for piece in pieces[1:]:
        if lines[-1].cell_len + 2 + piece.cell_len > columns:
            lines.append(piece.copy())
        else:
            lines[-1].append("  ").append_text(piece)
    return lines


def _show_measures(report: ExpertReport, output: Output) -> None:
    rows = []
    for label, value, form in _MEASURES:
        found = sorted((known, use.layer) for use in report.layers if (known := value(use)) is not None)
        if not found:
            continue
        (low, low_layer), (high, high_layer) = found[0], found[-1]
        middle = form(median_low(known for known, _ in found))
        rows.append((label, form(low), f"({low_layer})", middle, form(high), f"({high_layer})"))
    output.table(("a layer's", "lowest", "in", "median", "highest", "in"), rows, right=(1, 3, 4))


def _show_budgets(report: ExpertReport, output: Output) -> None:
    with_bytes = all(budget.n_bytes is not None for budget in report.budgets)
    header = ("experts in memory", "a layer", *(["size"] if with_bytes else []), "hit rate")
    rows = [
        (
            f"{budget.fraction:.0%}",
            f"{budget.n_experts:.4g}",
            *([format_memory(budget.n_bytes or 0)] if with_bytes else []),
            f"{budget.hit_rate:.1%}",
        )
        for budget in report.budgets
    ]
    output.table(header, rows, right=range(len(header)))


def _show_warnings(report: ExpertReport, output: Output) -> None:
    if report.warnings:
        output.line()
    for line in report.warnings[:_MOST_WARNINGS]:
        output.line(f"warning: {line}")
    if n_more := len(report.warnings[_MOST_WARNINGS:]):
        output.line(f"warning: {n_more} more like these; --json has them all")


def _layer_document(use: LayerUse) -> dict[str, Any]:
    values = asdict(use)
    uses = values.pop("uses")
    return {**_rounded(values), "n_unused": use.n_unused, "uses": list(uses)}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, _DIGITS) if isinstance(value, float) else value for name, value in values.items()}
