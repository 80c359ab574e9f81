"""Turn a GGUF file into one of another type: `llama_model_quantize`, in a child process that may die.

Checks what can be checked beforehand (the model, the disk, quantizing twice), lets quantize_worker.py write a temporary
sibling, and publishes it as conversions do: complete under its name, with digests beside it. Not resumable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.digests import Digests, digest_path
from quant.durable_files import DurableFiles, try_lock
from quant.errors import NotEnoughDisk, OutputBusy, OutputExists
from quant.ggml_types import GGML_TYPES
from quant.gguf_check import check_model
from quant.gguf_read import GgufFile, read_gguf
from quant.partial_output import DISK_RESERVE_BYTES, OutputNames, rename_companion, rename_to_final
from quant.recipe import STOCK_TYPES, OutputType, find_output_type
from quant.verify import digest_tensors
from qwenctl.errors import InvalidRequest
from qwenctl.services.machine_limits import usable_cores
from qwenctl.services.quantize_child import run_worker


@dataclass(frozen=True, slots=True)
class QuantizationProgress:
    """How far it is; `tensor` is being done."""

    n_weights_done: int
    n_weights: int
    tensor: str


@dataclass(frozen=True, slots=True)
class QuantizationResult:
    """A finished file, in figures."""

    path: Path
    output_type: str
    n_bytes: int
    n_weights: int
    bits_per_weight: float
    seconds: float
    weights_per_s: float
    n_threads: int
    quantized_before: tuple[str, ...]  # types of the source that had lost precision already


def quantized_types(gguf: GgufFile) -> tuple[str, ...]:
    """Return the types in the file whose weights were quantized already."""
    return tuple(sorted({t.dtype for t in gguf.tensors.values() if GGML_TYPES[t.dtype].block_weights > 1}))


def quantize(
    source: Path,
    out: Path,
    output_type: str,
    *,
    n_threads: int | None = None,
    force: bool = False,
    allow_requantize: bool = False,
    on_progress: Callable[[QuantizationProgress], None] = lambda _: None,
) -> QuantizationResult:
    """Write `source`, a GGUF file or the first of a split set, as `output_type` to the file `out`.

    Args:
        source: what to quantize.
        out: where to; its folder exists.
        output_type: a name in quant.recipe.STOCK_TYPES, in any case.
        n_threads: None: as many as this process may use.
        force: replace an existing file.
        allow_requantize: take a source that is quantized already.
        on_progress: called as each tensor begins.

    Raises:
        InvalidRequest: source and output are one file, or the source is quantized already.
        OutputExists, OutputBusy, NotEnoughDisk: nothing was changed.
        GgufError: the source is damaged, or would crash llama.cpp.
        QwenctlError: llama.cpp refused or crashed.
    """
    started = time.monotonic()
    gguf = read_gguf(source)
    check_model(gguf)
    before = quantized_types(gguf)
    _refuse(gguf, source, out, before, force=force, allow_requantize=allow_requantize)
    kind = _stock_type(output_type)
    n_threads = n_threads or usable_cores()
    n_weights = sum(tensor.n_weights for tensor in gguf.tensors.values())
    request: dict[str, object] = {
        "source": str(source),
        "ftype_id": kind.ftype_id,
        "n_threads": n_threads,
        "alignment": gguf.alignment,
        "allow_requantize": allow_requantize,
    }
    encoded_s = _write(
        request,
        out,
        lambda answer: on_progress(QuantizationProgress(answer["n_weights_done"], n_weights, answer["tensor"])),
    )
    written = read_gguf(out)
    return QuantizationResult(
        path=out,
        output_type=kind.name,
        n_bytes=written.size_bytes,
        n_weights=n_weights,
        bits_per_weight=8 * sum(tensor.n_bytes for tensor in written.tensors.values()) / n_weights,
        seconds=time.monotonic() - started,
        weights_per_s=n_weights / encoded_s,
        n_threads=n_threads,
        quantized_before=before,
    )


def _stock_type(name: str) -> OutputType:
    kind = find_output_type(name)
    if kind.name not in STOCK_TYPES:
        raise InvalidRequest(
            f"{kind.name} is not one of llama.cpp's types", "`qwenctl convert` makes it of a checkpoint"
        )
    return kind


def _write(request: Mapping[str, object], out: Path, on_answer: Callable[[Mapping[str, Any]], None]) -> float:
    """Let llama.cpp write the file, and publish it; return the seconds that llama.cpp took."""
    dry_run = run_worker({**request, "out": "", "dry_run": True}, lambda _: None)
    _check_space(out.parent, int(dry_run["n_bytes"]))
    names = OutputNames(out, digest_path(out), ".quantize.partial")
    with _locked(names) as fd:
        started = time.monotonic()
        run_worker({**request, "out": str(names.partial), "dry_run": False}, on_answer)
        seconds = time.monotonic() - started
        _publish(names, fd, digest_tensors(read_gguf(names.partial), tool="llama_model_quantize"))
    return seconds


def _refuse(
    gguf: GgufFile, source: Path, out: Path, before: tuple[str, ...], *, force: bool, allow_requantize: bool
) -> None:
    if out.exists() and any(out.samefile(path) for path in gguf.paths):
        raise InvalidRequest(f"{source} cannot be quantized in place", "name another output")
    if out.exists() and not force:
        raise OutputExists(f"{out} is there already", "--force replaces it")
    if before and not allow_requantize:
        raise InvalidRequest(
            f"{source} is quantized already ({', '.join(before)}); quantizing it again loses more",
            "convert the original checkpoint instead, or accept the loss with --allow-requantize",
        )


def _check_space(folder: Path, n_bytes: int) -> None:
    free = DurableFiles().free_bytes(folder)
    if free < n_bytes + DISK_RESERVE_BYTES:
        raise NotEnoughDisk(folder, n_bytes + DISK_RESERVE_BYTES, free)


@contextmanager
def _locked(names: OutputNames) -> Iterator[int]:
    """Make and lock the temporary file; yield its descriptor. It is gone afterwards, unless it was renamed."""
    fd = os.open(names.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not try_lock(fd):
            raise OutputBusy(f"another process is writing {names.final} (it holds {names.partial})", "wait for it")
        try:
            yield fd
        finally:
            names.partial.unlink(missing_ok=True)
            names.companion_partial.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _publish(names: OutputNames, fd: int, digests: Digests) -> None:
    files = DurableFiles()
    files.sync_data(fd)
    files.write_whole(names.companion_partial, digests.to_json())
    rename_to_final(names, files)
    rename_companion(names, files)
