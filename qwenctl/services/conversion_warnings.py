"""What a user should know about a conversion before it runs: where it will lose more than it need.

Names what it warns of: experts that no token reached, layers without statistics, types that do badly when a model was
not trained for them. Pure but for a look whether the encoders were compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quant.codecs.fast import load_fast_encoders
from quant.conversion_plan import ConversionPlan
from quant.shown import named, some
from qwenctl.units import format_count

_N_NAMED = 3
_MTP = re.compile(r"nextn|mtp", re.IGNORECASE)


def conversion_warnings(plan: ConversionPlan, quality: str) -> list[str]:
    """Return the warnings, one line each."""
    return [*_statistics(plan), *_types(plan), *_encoders(plan, quality)]


def _statistics(plan: ConversionPlan) -> Iterator[str]:
    if plan.fit is None:
        return
    quantized = {tensor.name for tensor in plan.layout.placed if tensor.type.block_weights > 1}
    lacking = [name for name in plan.fit.without_statistics if name in quantized]
    for what, names in (
        ("MTP layers, which are not run while statistics are gathered", [n for n in lacking if _MTP.search(n)]),
        ("weights", [n for n in lacking if not _MTP.search(n)]),
    ):
        if names:
            examples = some(names, _N_NAMED)
            yield f"the importance matrix says nothing of {len(names)} {what}: {examples}; encoded unweighted"
    never = [(name, experts) for name, experts in plan.fit.never_routed if name in quantized]
    if never:
        n_experts = sum(len(experts) for _, experts in never)
        tensors = [f"{named(name)} experts {some(list(map(str, experts)), _N_NAMED)}" for name, experts in never]
        rest = f" and {len(never) - _N_NAMED} more tensors" if len(never) > _N_NAMED else ""
        yield (
            f"no token reached {n_experts} experts while statistics were gathered: {'; '.join(tensors[:_N_NAMED])}"
            f"{rest}; encoded unweighted (`qwenctl imatrix --top-up` gives them some)"
        )


def _types(plan: ConversionPlan) -> Iterator[str]:
    mxfp4 = [tensor for tensor in plan.layout.placed if tensor.type.name == "MXFP4"]
    if mxfp4:
        n_weights = sum(tensor.n_bytes * 8 for tensor in mxfp4) / 4.25
        yield (
            f"MXFP4 for {format_count(n_weights)} weights of a model that was not trained for it loses more than "
            f"IQ4_XS of the same size: {some([tensor.name for tensor in mxfp4], _N_NAMED)}"
        )


def _encoders(plan: ConversionPlan, quality: str) -> Iterator[str]:
    if quality != "exact" and plan.output.is_quantized and load_fast_encoders() is None:
        yield "our encoders were not compiled here (`make setup` does it); llama.cpp's, which are slower, do the work"
