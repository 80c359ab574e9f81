"""How many sequences a model computes at the same time where nobody says: as many as still pay, and as memory holds.

What pays is known where steps of this model were measured on this machine (step_record.py, parallel_rule.py), with at
least half as many sequences as would be taken without. Else it is what was measured on CPUs (scripts/bench_serve.py):
weights are read once for all sequences of a step, so a step of n takes a + b n of the time of one. With SmolLM2-135M on
two cores a = 0.67, b = 0.33:

    n              1     2     4     8    16    32
    tokens/s       1   1.5   2.0   2.4   2.7   2.8   times those of one

Beyond 16 a CPU gains little, while each answer gets slower in proportion. A server, where somebody waits for each,
stops at 8; a GPU has arithmetic to spare, and takes twice as many. Experts that are read from disk serve all sequences
of a step, too. Memory, either way: the cells of a sequence, up to a quarter of what the weights leave. Pure but for
`parallel_for`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quant.gguf_check import check_model
from quant.gguf_read import read_gguf
from qwenctl.moe.context_memory import ContextShape, kv_cache_bytes
from qwenctl.services.engine_devices import engine_devices
from qwenctl.services.engine_options import EngineOptions, Purpose
from qwenctl.services.memory_limits import machine_memory
from qwenctl.services.parallel_rule import MeasuredChoice, choose_measured, fit_line
from qwenctl.services.split_files import model_files
from qwenctl.services.step_record import StepFile, StepRecord
from qwenctl.units import format_memory

USUAL_N_CTX = 4096  # of each sequence, where nobody says
_MOST_ON_CPU: dict[Purpose, int] = {"batch": 16, "serve": 8}
_GPU_FACTOR = 2
_CACHE_SHARE = 4  # the cache may take this part of what the weights leave
_NOTHING = StepRecord()


@dataclass(frozen=True, slots=True)
class ParallelChoice:
    """What was chosen."""

    n_parallel: int
    n_ctx: int  # of each sequence
    reason: str  # one line


def choose_parallel(
    purpose: Purpose,
    n_ctx: int,
    sequence_bytes: int,
    available_bytes: int,
    weights_bytes: int,
    *,
    has_gpu: bool,
    known: StepRecord = _NOTHING,
) -> ParallelChoice:
    """Return the number of sequences.

    Args:
        purpose: what for.
        n_ctx: tokens of a sequence.
        sequence_bytes: of its cells.
        available_bytes: for weights and cache together.
        weights_bytes: of the model. Of one that is larger than the memory, parts stay on disk: the cache may then take
            a quarter of all, though each byte of it is one for experts less.
        has_gpu: whether a GPU computes.
        known: what steps took here before.
    """
    usual = _MOST_ON_CPU[purpose] * (_GPU_FACTOR if has_gpu else 1)
    left = available_bytes - weights_bytes
    room = max(0, left if left > 0 else available_bytes) // _CACHE_SHARE
    fits = room // max(1, sequence_bytes)
    line = fit_line(known.steps)
    measured = None
    if line and 2 * line.n_measured >= min(usual, fits):
        measured = choose_measured(purpose, line, known.chosen.get(purpose, usual))
    pays = measured.n_parallel if measured else usual
    n_parallel = max(1, min(pays, fits))
    cells = f"{format_memory(n_parallel * sequence_bytes)} for {n_ctx:,} tokens each"
    if fits < pays:
        why = f"a quarter of the memory beside the weights, {format_memory(room)}, holds no more"
    elif measured:
        why = f"measured on this machine, {_figures(measured)}"
    else:
        why = f"more would gain little on {'this GPU' if has_gpu else 'this processor'}"
    return ParallelChoice(n_parallel, n_ctx, f"{n_parallel} answers at the same time, {cells}: {why} (--parallel)")


def _figures(choice: MeasuredChoice) -> str:
    """Return why that many, and not twice as many."""
    line, n_parallel = choice.line, choice.n_parallel
    give = "give" if n_parallel <= line.n_measured else "should give"
    together = f"they {give} {line.tokens_s(n_parallel):,.0f} tokens/s"
    if choice.bound == "share":
        return f"{together}, each {line.share(n_parallel):.0%} of what one alone has"
    if choice.bound == "gain":
        return f"{together}, twice as many {line.gain(n_parallel):.0%} more"
    return f"{together}; more than {line.n_measured} were never measured"


def parallel_for(path: Path, options: EngineOptions, purpose: Purpose) -> ParallelChoice:
    """Look at a model's file and at this machine, and choose.

    Raises:
        GgufError: the file is none, or none that llama.cpp could load.
        InvalidRequest: a device of `options` is not there.
    """
    gguf = read_gguf(path)
    check_model(gguf)
    n_ctx = options.n_ctx or min(gguf.n_ctx_train or USUAL_N_CTX, USUAL_N_CTX)
    table = gguf.tensors.get("token_embd.weight")
    shape = ContextShape.of(gguf.metadata, table.shape[0] if table else 0)
    devices = engine_devices(options.devices)
    memory = machine_memory()
    available = memory.available_bytes + sum(device.free_bytes for device in devices.memory)
    if options.offload.ram_bytes is not None:
        available = min(available, options.offload.ram_bytes)
    file = StepFile.of(path, options, devices.memory)
    return choose_parallel(
        purpose,
        n_ctx,
        kv_cache_bytes(shape, n_ctx, 1, options.cache_type_k, options.cache_type_v),
        available,
        sum(part.stat().st_size for part in model_files(path) if part.is_file()),
        has_gpu=devices.has_gpu and options.n_gpu_layers != 0,
        known=file.read() if file else _NOTHING,
    )
