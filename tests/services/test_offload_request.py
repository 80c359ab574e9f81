"""Engine options as sizing sees them."""

from __future__ import annotations

from qwenctl.moe.microbatch import PrefillRates
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.moe.offload_plan import OffloadRequest
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.offload_request import offload_request


def test_defaults() -> None:
    assert offload_request(EngineOptions(), 8192, 1) == OffloadRequest(8192)


def test_sequences_with_cells_of_their_own_are_streams() -> None:
    request = offload_request(EngineOptions(n_parallel=8), 4096, 8)
    assert (request.n_cells, request.n_streams, request.n_outputs) == (4096, 8, 8)


def test_shared_cells_are_one_stream() -> None:
    request = offload_request(EngineOptions(n_parallel=8, n_cells=32768), 4096, 24)
    assert (request.n_cells, request.n_streams, request.n_outputs) == (32768, 1, 24)


def test_what_the_user_decided_is_kept() -> None:
    offload = OffloadOptions(ram_bytes=1 << 30, vram_bytes=1 << 29, n_slots=9, n_io_threads=2)
    options = EngineOptions(
        cache_type_k="q8_0", cache_type_v="q4_0", flash_attention=True, n_batch=4096, n_gpu_layers=3, offload=offload
    )
    rates = PrefillRates(9e9)
    assert offload_request(options, 512, 1, layout="amx", n_ubatch=64, wave_rows=77, rates=rates) == OffloadRequest(
        512, 1, 1, "q8_0", "q4_0", True, 4096, 64, 1 << 30, 1 << 29, 3, 9, 2, 77, "amx", rates
    )
