"""How llama.cpp by itself is told to place a model on devices: layers, and whose experts stay in main memory.

For models without experts, and where the expert scheduler is off or not there. Decides by moe/stock_placement.py; one
of these lives as long as its model is being loaded.
"""

from __future__ import annotations

import ctypes
from typing import Any

from quant.gguf_read import GgufFile
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.context_memory import ContextShape, compute_bytes, kv_cache_bytes
from qwenctl.moe.device_budget import DeviceRequest
from qwenctl.moe.flash_choice import flash_is_better
from qwenctl.moe.stock_placement import STOCK_UBATCH, StockPlacement, cpu_override, layer_sizes, place_stock
from qwenctl.services.engine_devices import EngineDevices
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import ContextSize


def plan_stock(
    gguf: GgufFile, options: EngineOptions, devices: EngineDevices, context: ContextSize
) -> StockPlacement | None:
    """Return where llama.cpp is to put the model; None: there are no devices, or it cannot be said.

    Args:
        gguf: the model's header.
        options: of the engine.
        devices: that may be used.
        context: what the context will hold.
    """
    table = gguf.tensors.get("token_embd.weight")
    if not devices.devices or table is None:
        return None
    shape = ContextShape.of(gguf.metadata, table.n_rows)
    kv = kv_cache_bytes(shape, context.n_cells, context.n_streams, options.cache_type_k, options.cache_type_v)
    n_ubatch, flash = options.n_ubatch or STOCK_UBATCH, options.flash_attention
    if flash is None:  # as NativeModel will decide
        n_tokens, cpu_only = min(n_ubatch, options.n_batch), not devices.has_gpu
        flash = flash_is_better(shape.n_head, n_tokens, context.n_cells, options.cache_type_v, cpu_only=cpu_only)
    compute = compute_bytes(shape, n_ubatch, context.n_cells, n_outputs=context.n_outputs, flash=flash)
    request = DeviceRequest(kv, compute, options.offload.vram_bytes, options.n_gpu_layers, options.split)
    return place_stock(layer_sizes(gguf.tensors, shape.n_layers), devices.memory, request)


class StockOverrides:
    """llama.cpp's tensor_buft_overrides that keep the experts of some layers in main memory.

    Args:
        devices: which have the library.
        layers: whose experts; empty: no overrides.
    """

    def __init__(self, devices: EngineDevices, layers: tuple[int, ...]) -> None:
        self._table: Any = None
        if layers and devices.calls:
            self._pattern = ctypes.create_string_buffer(cpu_override(layers).encode())
            self._table = (abi.llama_model_tensor_buft_override * 2)()  # the second one, all zero, ends it
            self._table[0].pattern = ctypes.addressof(self._pattern)
            self._table[0].buft = devices.calls.ggml.ggml_backend_cpu_buffer_type()

    def tell(self, params: Any) -> None:
        """Write them into llama_model_params."""
        if self._table is not None:
            params.tensor_buft_overrides = ctypes.addressof(self._table)
