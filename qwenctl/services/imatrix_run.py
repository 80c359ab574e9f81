"""Gather an importance matrix: a model reads text, the squares of what its weights are multiplied with are summed.

    chunks of the text ─► batches ─► sums so far ─┬► OUT.partial, every half minute
    what the model writes, where experts lack tokens ┘        └► OUT, and the second moments, at the end

    activation_model.py    computes        activation_totals.py (_sums, _moments)    adds up
    activation_probe.py    sees            imatrix_reading.py, imatrix_state.py      reads, keeps

Killed or interrupted, the same command goes on where the last save was, and ends with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod
from pathlib import Path

from quant.errors import OutputExists
from quant.gguf_read import GgufFile
from quant.imatrix import Imatrix
from quant.imatrix_coverage import LayerCoverage, coverage_of
from quant.imatrix_file import read_imatrix, write_imatrix
from quant.imatrix_fit import check_fits
from quant.second_moments import write_second_moments
from qwenctl.errors import InvalidRequest
from qwenctl.services.activation_model import ActivationModel, ReadingOptions
from qwenctl.services.activation_moments import are_routers, plan_moments
from qwenctl.services.activation_probe import ActivationProbe
from qwenctl.services.activation_totals import ActivationTotals
from qwenctl.services.calibration_text import CalibrationText
from qwenctl.services.calibration_tokens import TokenStream, to_chunks, to_tokens
from qwenctl.services.chat_template import ChatTemplate
from qwenctl.services.imatrix_identity import file_digest, model_fingerprint
from qwenctl.services.imatrix_reading import ImatrixReading, ReadProgress
from qwenctl.services.imatrix_state import Progress, StateFile, write_failed
from qwenctl.units import GIB

_OUTPUT, _EMBEDDINGS = "output.weight", "token_embd.weight"


@dataclass(frozen=True, slots=True)
class ImatrixRequest:
    """What to gather, and where to put it."""

    out: Path
    n_chunks: int | None = None  # of the text; None: all of it
    merge: tuple[Path, ...] = ()  # importance matrices of the same model, to be added
    process_output: bool = False  # the output matrix as well
    parse_special: bool = False  # special tokens in plain texts
    hessians: Path | None = None  # where second moments go; None: they are not gathered
    hessian_budget_bytes: int = 2 * GIB
    top_up: int = 0  # tokens that every expert is to have; the model writes text for those that lack some
    top_up_tokens: int = 1 << 17  # that the model writes at most
    force: bool = False
    restart: bool = False


@dataclass(frozen=True, slots=True)
class ImatrixResult:
    """What came of it.

    `without_statistics` are weights that llama.cpp does not multiply with: those of MTP layers. `moments` has the
    number of matrices of each input, `without_moments` the inputs that the budget left no room for.
    """

    imatrix: Imatrix
    coverage: tuple[LayerCoverage, ...]
    progress: Progress
    without_statistics: tuple[str, ...] = ()
    moments: Mapping[str, int] = field(default_factory=dict)
    without_moments: tuple[str, ...] = ()
    n_plain_talks: int = 0
    seconds: float = 0.0


def merge_imatrices(paths: Sequence[Path], shapes: Mapping[str, tuple[int, ...]] | None = None) -> Imatrix | None:
    """Return the sum of files, None for no files.

    Args:
        paths: the files.
        shapes: of the model's tensors, if it is known.

    Raises:
        GgufError, ImatrixMismatch: a file is damaged, or of another model.
    """
    read = [read_imatrix(path) for path in paths]
    if shapes is not None:
        read = [check_fits(one, shapes).imatrix for one in read]
    return reduce(Imatrix.merged, read) if read else None


def write_merged(request: ImatrixRequest) -> ImatrixResult:
    """Merge files, and read no text.

    Raises:
        OutputExists, GgufError, ImatrixMismatch, WriteFailed: nothing was changed.
    """
    _refuse_existing(request, resumes=False)
    merged = merge_imatrices(request.merge)
    if merged is None:
        raise InvalidRequest("nothing to merge and no text to read", "name files with --merge")
    _write(merged, request.out)
    return ImatrixResult(merged, coverage_of(merged), Progress())


def gather_imatrix(
    gguf: GgufFile,
    text: CalibrationText,
    request: ImatrixRequest,
    options: ReadingOptions,
    *,
    on_progress: Callable[[ReadProgress], None] = lambda _: None,
    on_open: Callable[[ActivationModel], None] = lambda _: None,
) -> ImatrixResult:
    """Read `text` with a model, and write the file, or files, of `request`.

    Args:
        gguf: the model.
        text: what it reads.
        request: see there.
        options: how it is opened.
        on_progress: called after each batch; may raise to break off.
        on_open: is given the opened model, before it reads.

    Raises:
        OutputExists, OutputBusy, ResumeRefused, ImatrixMismatch, GgufError: nothing was changed.
        WriteFailed, GenerationFailed: what was saved before is still there; the message names the file or the weight.
        Exception: what opening the model raises, see `NativeModel`.
    """
    started_s = time.monotonic()
    shapes = {name: info.shape for name, info in gguf.tensors.items()}
    merged = merge_imatrices(request.merge, shapes)
    weights = _measured(shapes, process_output=request.process_output)
    totals = ActivationTotals()
    with StateFile(request.out) as state_file:
        _refuse_existing(request, resumes=state_file.exists and not request.restart)
        probe = ActivationProbe(weights, [totals.sums, totals.moments])
        with ActivationModel.open(gguf, _with_reserve(options, weights, request), probe) as model:
            on_open(model)
            members = model.survey()
            if request.hessians is not None:
                totals.moments.n_matrices = plan_moments(members, shapes, request.hessian_budget_bytes)
            stream = _stream(model, text, request)
            reading = ImatrixReading(model, totals, state_file, _identity(gguf, stream, request, options))
            reading.resume(restart=request.restart)
            chunks = to_chunks(stream.tokens, model.chunk_tokens, model.vocabulary.begin_token)
            reading.read_text(chunks[: request.n_chunks], on_progress)
            reading.top_up(request.top_up, request.top_up_tokens, on_progress)
            totals.check_finite()
            names = text.names + ((f"text written by {model.info.name}",) if reading.progress.n_written_tokens else ())
        n_chunks = max(1, round(reading.progress.n_all_tokens / options.chunk_tokens))
        own = Imatrix(totals.sums.entries(members), names, n_chunks, options.chunk_tokens)
        imatrix = own if merged is None else merged.merged(own)
        _publish(imatrix, totals, members, request)
        state_file.remove()
    return ImatrixResult(
        imatrix=imatrix,
        coverage=coverage_of(imatrix),
        progress=reading.progress,
        without_statistics=tuple(name for name in weights if name not in own.entries),
        moments=dict(totals.moments.n_matrices),
        without_moments=_left_out(members, totals.moments.n_matrices),
        n_plain_talks=stream.n_plain_talks,
        seconds=time.monotonic() - started_s,
    )


def _left_out(members: Mapping[str, tuple[str, ...]], chosen: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(name for name, weights in members.items() if name not in chosen and not are_routers(weights))


def _publish(
    imatrix: Imatrix, totals: ActivationTotals, members: Mapping[str, tuple[str, ...]], request: ImatrixRequest
) -> None:
    """Write what was asked for, the importance matrix last."""
    if request.hessians is not None:
        entries = totals.moments.entries()
        shared = {name: first for first, names in members.items() if first in entries for name in names[1:]}
        try:
            write_second_moments(request.hessians, entries, shared)
        except OSError as error:
            raise write_failed(request.hessians, error) from error
    _write(imatrix, request.out)


def _measured(shapes: Mapping[str, tuple[int, ...]], *, process_output: bool) -> dict[str, tuple[int, ...]]:
    """Return the weights to be measured. Where the embeddings are the output matrix too, it goes by their name."""
    found = {name: shape for name, shape in shapes.items() if len(shape) >= 2 and name.startswith("blk.")}
    if process_output:
        name = _OUTPUT if _OUTPUT in shapes else _EMBEDDINGS
        found[name] = shapes[name]
    return found


def _with_reserve(
    options: ReadingOptions, weights: Mapping[str, tuple[int, ...]], request: ImatrixRequest
) -> ReadingOptions:
    """Leave memory for what is added up, float64 and at the end once more in float32, and for second moments."""
    sums_bytes = 12 * sum(prod(shape[:-2]) * shape[-1] for shape in weights.values())
    moments_bytes = 0 if request.hessians is None else request.hessian_budget_bytes
    reserved = replace(options.offload, reserved_bytes=sums_bytes + moments_bytes)
    return replace(options, offload=reserved)


def _stream(model: ActivationModel, text: CalibrationText, request: ImatrixRequest) -> TokenStream:
    info = model.info
    template = (
        ChatTemplate(info.chat_template, bos_token=info.bos_token, eos_token=info.eos_token)
        if info.chat_template
        else None
    )
    try:
        return to_tokens(text.pieces, model.vocabulary, template, parse_special=request.parse_special)
    finally:
        if template is not None:
            template.close()


def _identity(gguf: GgufFile, stream: TokenStream, request: ImatrixRequest, options: ReadingOptions) -> dict[str, str]:
    merged = {f"merged file {path.name}": file_digest(path) for path in request.merge}
    return merged | {
        "model": model_fingerprint(gguf),
        "text": stream.digest,
        "chunk size": f"{options.chunk_tokens} tokens",
        "arrangement of weights": "the file's" if options.exact else "the quickest",
        "output matrix": "measured" if request.process_output else "left out",
        "second moments": "left out" if request.hessians is None else f"{request.hessian_budget_bytes} bytes",
    }


def _refuse_existing(request: ImatrixRequest, *, resumes: bool) -> None:
    paths = [request.out, *([request.hessians] if request.hessians is not None else [])]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InvalidRequest("the importance matrix and the second moments need a file each")
    for path in paths:
        if path.exists() and not request.force and not resumes:
            raise OutputExists(f"{path} is there already", "--force replaces it")


def _write(imatrix: Imatrix, path: Path) -> None:
    try:
        write_imatrix(imatrix, path)
    except OSError as error:
        raise write_failed(path, error) from error
