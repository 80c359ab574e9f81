"""What `qwenctl imatrix` says at the end: tokens of each layer's experts, and whatever has no statistics, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quant.imatrix_coverage import LayerCoverage
from qwenctl.cli.output import Output
from qwenctl.services.imatrix_run import ImatrixRequest, ImatrixResult
from qwenctl.units import format_seconds

_N_NAMED = 12  # experts or weights in a line; the rest are counted


def print_result(result: ImatrixResult, request: ImatrixRequest, output: Output) -> None:
    """Write the coverage to standard output, warnings and a summary to standard error."""
    if output.json_mode:
        output.data(_document(result, request))
    else:
        _print_coverage(result.coverage, output)
    _warn(result, request, output)
    if not output.json_mode:
        output.note(f"{request.out}: {_summary(result)}")


def _print_coverage(coverage: Sequence[LayerCoverage], output: Output) -> None:
    if not coverage:
        return
    rows = [
        (layer.layer, len(layer.tokens), layer.least, f"{layer.median:g}", layer.most, _listed(layer.below(1)))
        for layer in coverage
    ]
    header = ("layer", "experts", "least tokens", "median", "most", "never routed")
    output.table(header, rows, right=range(5))


def _warn(result: ImatrixResult, request: ImatrixRequest, output: Output) -> None:
    never = [f"blk.{layer.layer} ({_listed(layer.below(1))})" for layer in result.coverage if layer.below(1)]
    if never:
        hint = "" if request.top_up else "; --top-up lets the model write text for them"
        output.warning(f"experts that were never routed to have no statistics: {_listed(never)}{hint}")
    if request.top_up:
        thin = sum(len(layer.below(request.top_up)) for layer in result.coverage)
        if thin:
            spent = f"{result.progress.n_written_tokens:,} tokens of the model's own text"
            output.warning(f"{thin} experts still have fewer than {request.top_up} tokens after {spent}")
    if result.without_statistics:
        output.warning(f"llama.cpp never multiplies with these weights: {_listed(result.without_statistics)}")
    if result.n_plain_talks:
        output.warning(f"{result.n_plain_talks} conversations do not fit the chat template and were read as plain text")
    if request.hessians is not None and result.without_moments:
        output.warning(f"--hessian-budget left no room for the second moments of {_listed(result.without_moments)}")


def _summary(result: ImatrixResult) -> str:
    imatrix, progress = result.imatrix, result.progress
    parts = [f"{len(imatrix.entries)} weights"]
    if progress.n_tokens:
        parts.append(f"{progress.n_tokens:,} tokens read in {progress.n_chunks} chunks")
    if progress.n_written_tokens:
        parts.append(f"{progress.n_written_tokens:,} written and read")
    if result.moments:
        parts.append(f"second moments of {len(result.moments)} inputs")
    if result.seconds:
        parts.append(format_seconds(result.seconds))
    return " · ".join(parts)


def _document(result: ImatrixResult, request: ImatrixRequest) -> dict[str, Any]:
    imatrix, progress = result.imatrix, result.progress
    return {
        "output": str(request.out),
        "hessians": None if request.hessians is None else str(request.hessians),
        "digest": imatrix.digest,
        "datasets": list(imatrix.datasets),
        "n_weights": len(imatrix.entries),
        "n_chunks": imatrix.n_chunks,
        "chunk_tokens": imatrix.chunk_tokens,
        "n_tokens_read": progress.n_tokens,
        "n_tokens_written": progress.n_written_tokens,
        "seconds": round(result.seconds, 3),
        "layers": [
            {
                "layer": layer.layer,
                "n_experts": len(layer.tokens),
                "least": layer.least,
                "median": layer.median,
                "most": layer.most,
                "never_routed": list(layer.below(1)),
                "thin": list(layer.below(request.top_up)),
                "tokens": list(layer.tokens),
            }
            for layer in result.coverage
        ],
        "without_statistics": list(result.without_statistics),
        "second_moments": dict(result.moments),
        "without_second_moments": list(result.without_moments) if request.hessians is not None else [],
    }


def _listed(items: Sequence[object]) -> str:
    rest = len(items) - _N_NAMED
    return ", ".join(str(item) for item in items[:_N_NAMED]) + (f" and {rest} more" if rest > 0 else "")
