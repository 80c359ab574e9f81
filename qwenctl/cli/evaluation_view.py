"""What `qwenctl eval` prints: tables for people, documents for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from quant.estimates import Estimate
from qwenctl.cli.output import Output
from qwenctl.services.evaluation import DivergenceReport, DivergenceRow, PerplexityRow
from qwenctl.services.evaluation_models import ModelFile
from qwenctl.units import format_bytes


def show_perplexity(rows: Sequence[PerplexityRow], output: Output) -> None:
    """Write a line for each model."""
    output.table(
        ("MODEL", "SIZE", "BPW", "PPL", "CHUNKS", "TOKENS"),
        [(*_model_cells(row.model), _with_error(row.perplexity, 4), row.n_chunks, f"{row.n_tokens:,}") for row in rows],
        right=(1, 2, 3, 4, 5),
    )


def show_divergence(report: DivergenceReport, output: Output) -> None:
    """Write a table of divergences, and one of what became of the text's own tokens; the reference's row ends both."""
    reference = report.reference
    output.table(
        ("MODEL", "SIZE", "BPW", "MEAN KLD", "MEDIAN", "99 %", "99.9 %", "MAX"),
        [
            *((*_model_cells(row.model), *_divergence_cells(row)) for row in report.rows),
            (*_model_cells(reference.model), *["-"] * 5),
        ],
        right=(1, 2, 3, 4, 5, 6, 7),
    )
    output.line()
    output.table(
        ("MODEL", "SAME TOP %", "PPL", "PPL / REFERENCE", "MEAN ΔP %", "RMS ΔP %"),
        [
            *((row.model.name, *_agreement_cells(row)) for row in report.rows),
            (reference.model.name, "-", _with_error(reference.perplexity, 3), "-", "-", "-"),
        ],
        right=(1, 2, 3, 4, 5),
    )


def perplexity_document(rows: Sequence[PerplexityRow], text: str, n_ctx: int) -> dict[str, Any]:
    """Return the JSON document of `eval ppl`."""
    return {"text": text, "n_ctx": n_ctx, "models": [_perplexity_entry(row) for row in rows]}


def divergence_document(report: DivergenceReport, text: str, n_ctx: int) -> dict[str, Any]:
    """Return the JSON document of `eval kld`; divergences in nats, shares and probabilities from 0 to 1."""
    return {
        "text": text,
        "n_ctx": n_ctx,
        "n_chunks": report.reference.n_chunks,
        "n_tokens": report.reference.n_tokens,
        "n_rounds": report.n_rounds,
        "reference": _perplexity_entry(report.reference),
        "models": [
            {
                **_model_entry(row.model),
                "divergence": asdict(row.divergence),
                "perplexity": asdict(row.perplexity),
                "perplexity_ratio": asdict(row.perplexity_ratio),
                "probability_change": asdict(row.probability_change),
            }
            for row in report.rows
        ],
    }


def _model_cells(model: ModelFile) -> tuple[str, str, str]:
    return model.name, format_bytes(model.n_bytes), f"{model.bits_per_weight:.2f}"


def _divergence_cells(row: DivergenceRow) -> tuple[str, ...]:
    one = row.divergence
    others = (one.median, one.percentile_99, one.percentile_99_9, one.maximum)
    return _with_error(Estimate(one.mean, one.mean_error), 6), *(f"{value:z.5f}" for value in others)


def _agreement_cells(row: DivergenceRow) -> tuple[str, ...]:
    top, change = Estimate(row.divergence.same_top, row.divergence.same_top_error), row.probability_change
    return (
        _percent(top, 2),
        _with_error(row.perplexity, 3),
        _with_error(row.perplexity_ratio, 5),
        _percent(change.mean, 3),
        _percent(change.rms, 3),
    )


def _percent(share: Estimate, n_places: int) -> str:
    return _with_error(Estimate(100 * share.value, 100 * share.error), n_places)


def _with_error(estimate: Estimate, n_places: int) -> str:
    return f"{estimate.value:z.{n_places}f} ± {estimate.error:.{n_places}f}"


def _model_entry(model: ModelFile) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": str(model.path),
        "n_bytes": model.n_bytes,
        "n_weights": model.n_weights,
        "bits_per_weight": round(model.bits_per_weight, 4),
    }


def _perplexity_entry(row: PerplexityRow) -> dict[str, Any]:
    return {
        **_model_entry(row.model),
        "n_chunks": row.n_chunks,
        "n_tokens": row.n_tokens,
        "perplexity": asdict(row.perplexity),
    }
