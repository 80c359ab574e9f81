"""Convert a Hugging Face checkpoint to a GGUF file: where it goes, on how many threads, and what it cost.

The work is quant's; this service adds the names of outputs and the figures that a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import ConversionPlan, Importance, read_source
from quant.imatrix_file import read_imatrix
from quant.libggml import load_libggml
from quant.pipeline import ConversionOutcome, ConversionProgress, run_plan
from qwenctl.errors import InvalidRequest
from qwenctl.services.machine_limits import peak_rss_bytes, usable_cores
from qwenctl.services.type_choice import ChosenPlan, TypeRequest, choose_plan
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings

SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """A finished conversion, in figures."""

    path: Path
    output_type: str
    n_bytes: int
    n_weights: int
    bits_per_weight: float
    n_weights_resumed: int  # of n_weights, those that an earlier run had done
    seconds: float  # all of this run: encoding, reading back, publishing
    weights_per_s: float  # of the encoding
    n_threads: int
    peak_rss_bytes: int  # of the process, whatever else it did


def resolve_output(out: str, settings: Settings) -> Path:
    """Return the file that OUT means: a path that ends in .gguf, or a bare name, which goes to the models folder.

    Raises:
        InvalidRequest: a folder, a path without the suffix, or in a folder that does not exist.
    """
    given = typed_path(out)
    if given.is_dir():
        raise InvalidRequest(f"{out} is a folder", f"name a file in it: {given / 'model.gguf'}")
    if given.suffix != SUFFIX:
        if given.name != out:
            raise InvalidRequest(f"{out} does not end in {SUFFIX}", f"write {out}{SUFFIX}")
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        return settings.models_dir / (out + SUFFIX)
    if not given.parent.is_dir():
        raise InvalidRequest(f"the folder {given.parent} does not exist", f"mkdir -p {given.parent}")
    return given


def plan(
    source: Path,
    request: TypeRequest,
    imatrix: Path | None = None,
    *,
    n_threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> ChosenPlan:
    """Return what `convert` will do.

    Args:
        source: the checkpoint's folder.
        request: the types that are wanted.
        imatrix: file of an importance matrix, to weigh errors by.
        n_threads: that measure errors, where there is a budget.
        on_progress: called with (tensors measured, of how many) then.

    Raises:
        InvalidRequest: the source is a GGUF file.
        QuantError: what is wrong with the checkpoint, the type, the budget, the recipe or the importance matrix.
    """
    if source.suffix == SUFFIX and source.is_file():
        raise InvalidRequest(f"{source} is a GGUF file already", f"qwenctl quantize {source} OUT{SUFFIX} --type …")
    importance = None if imatrix is None else Importance(read_imatrix(imatrix), imatrix.name)
    return choose_plan(read_source(source), request, importance, n_threads=n_threads, on_progress=on_progress)


def convert(
    source: Path,
    out: Path,
    output_type: str,
    *,
    imatrix: Path | None = None,
    quality: str = "fast",
    n_threads: int | None = None,
    force: bool = False,
    restart: bool = False,
    on_progress: Callable[[ConversionProgress], None] = lambda _: None,
) -> ConversionResult:
    """Convert the checkpoint in the folder `source` to the file `out`: `plan`, then `write_plan`.

    Raises: as these two.
    """
    chosen = plan(source, TypeRequest(output_type, quality=quality), imatrix, n_threads=n_threads)
    return write_plan(
        chosen.plan, out, quality=quality, n_threads=n_threads, force=force, restart=restart, on_progress=on_progress
    )


def write_plan(
    planned: ConversionPlan,
    out: Path,
    *,
    quality: str = "fast",
    n_threads: int | None = None,
    force: bool = False,
    restart: bool = False,
    on_progress: Callable[[ConversionProgress], None] = lambda _: None,
) -> ConversionResult:
    """Write the plan's file, or go on where an earlier run was stopped.

    Args:
        planned: what to do.
        out: where to, as `resolve_output` returns it.
        quality: one of quant.codecs.row_encoder.QUALITIES.
        n_threads: None: as many as this process may use.
        force: replace an existing file.
        restart: forget what an earlier run has done.
        on_progress: called about ten times a second.

    Raises:
        QuantError: see `quant.pipeline.run_plan`.
        KeyboardInterrupt: what is done is kept.
    """
    started = time.monotonic()
    n_threads = n_threads or usable_cores()
    encoder = make_row_encoder(load_libggml(), quality)
    outcome = run_plan(planned, out, encoder, n_threads, force=force, restart=restart, on_progress=on_progress)
    return conversion_result(planned, out, outcome, started, n_threads)


def conversion_result(
    planned: ConversionPlan, out: Path, outcome: ConversionOutcome, started_s: float, n_threads: int
) -> ConversionResult:
    """Return the figures of a conversion that began at `started_s`, on the monotonic clock, and has ended now."""
    return ConversionResult(
        path=out,
        output_type=planned.output.name,
        n_bytes=planned.total_bytes,
        n_weights=planned.n_weights,
        bits_per_weight=planned.bits_per_weight,
        n_weights_resumed=outcome.n_weights_resumed,
        seconds=time.monotonic() - started_s,
        weights_per_s=outcome.n_weights / outcome.convert_s if outcome.convert_s else 0.0,
        n_threads=n_threads,
        peak_rss_bytes=peak_rss_bytes(),
    )
