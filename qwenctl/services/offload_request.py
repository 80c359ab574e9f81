"""What sizing has to know of the options that a model is opened with. A translation, no decisions."""

from __future__ import annotations

from qwenctl.moe.microbatch import PrefillRates
from qwenctl.moe.offload_plan import OffloadRequest
from qwenctl.services.engine_options import EngineOptions

_IO_THREADS = 4


def offload_request(
    options: EngineOptions,
    n_ctx: int,
    n_slots: int,
    *,
    layout: str = "plain",
    n_ubatch: int | None = None,
    wave_rows: int = 2048,
    rates: PrefillRates | None = None,
) -> OffloadRequest:
    """Return the request for `size_offload`.

    Args:
        options: as given.
        n_ctx: tokens a sequence may hold, the default filled in.
        n_slots: sequences of the KV cache, kept prefixes included: each may want logits.
        layout: of the slots.
        n_ubatch: None: chosen.
        wave_rows: pairs of token and expert that one graph computes at most.
        rates: as measured; None: a slow machine's.
    """
    offload = options.offload
    return OffloadRequest(
        n_cells=options.n_cells or n_ctx,
        n_streams=1 if options.n_cells else options.n_parallel,
        n_outputs=n_slots,
        type_k=options.cache_type_k,
        type_v=options.cache_type_v,
        flash_attention=options.flash_attention,
        n_batch=options.n_batch,
        n_ubatch=n_ubatch,
        ram_bytes=offload.ram_bytes,
        vram_bytes=offload.vram_bytes,
        n_gpu_layers=options.n_gpu_layers,
        n_slots=offload.n_slots,
        n_io_threads=offload.n_io_threads or _IO_THREADS,
        wave_rows=wave_rows,
        layout=layout,
        rates=rates or PrefillRates(),
    )
