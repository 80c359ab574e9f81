"""The native handles of an opened model: weights, KV cache, abort flag. All calls on them, and no decisions.

Flash attention, unless asked for or against: as llama.cpp likes it with a GPU or a quantized V cache. On a CPU it is
off as long as the matrix of attention scores stays below a GiB: ggml's CPU kernel takes ten times as long for each cell
that a generated token looks at as two matrix products do, and what it computes depends on how many tokens are computed
together (cells are split among threads for a single token, from 512 cells on; tiles are used from 64 tokens on:
ggml-cpu/ops.cpp). It is the better one for prompts, by a quarter or so. A remote device does not say what it is, and is
treated as a CPU, so that a model says the same there. With offloaded experts moe/sizing.py decides.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import llama_cpp

from quant.errors import GgufError
from quant.gguf_read import GgufFile, read_gguf
from qwenctl.core import ModelInfo
from qwenctl.errors import InvalidRequest, ModelLoadFailed
from qwenctl.moe.flash_choice import flash_is_better
from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.moe.stock_placement import STOCK_UBATCH, StockPlacement
from qwenctl.services.abort_flag import AbortFlag
from qwenctl.services.activation_probe import ActivationProbe
from qwenctl.services.batch_logits import BatchLogits, TokenLogits
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.decode_batch import DecodeBatch
from qwenctl.services.embedder import Embedder, Embeddings
from qwenctl.services.embedding_plan import MOST_LISTS, pooling_of, rows_at_once
from qwenctl.services.engine_devices import EngineDevices, engine_devices
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import ContextSize, ExpertOffload, open_offload
from qwenctl.services.model_facts import model_info
from qwenctl.services.native_log import native_log
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.prefix_cache.state_key import StateLayout
from qwenctl.services.routing_capture import RoutingCapture, open_trace
from qwenctl.services.stock_load import StockOverrides, plan_stock
from qwenctl.services.vocabulary import Vocabulary

_MOST_DEFAULT_N_CTX = 8192
_DEFAULT_CELLS = 32768  # of all sequences together: llama.cpp fills the cache with zeros, so it is memory at once

_GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
_PREFIXES_KEPT = 16  # finished sequences whose cells stay in a shared cache, besides the running ones


def open_native_model(
    path: Path, options: EngineOptions, probe: ActivationProbe | None = None
) -> tuple[NativeModel, NativeThread]:
    """Open a model on a thread of its own, where all that is native has to happen; whoever takes them closes both.

    Raises: as `NativeModel`.
    """
    abort = AbortFlag()
    thread = NativeThread("llama.cpp", abort.set)
    opened: list[NativeModel] = []
    try:
        thread.run(lambda: opened.append(NativeModel(path, options, abort, probe)))
    except BaseException:
        for model in opened:  # an interrupt that came when it was open already
            model.close()
        thread.close()
        raise
    return opened[0], thread


class NativeModel:
    """llama_model and llama_context, freed together by `close`.

    Args:
        path: the GGUF file; of a split set, the first one.
        options: how to open it.
        abort: set from another thread, it ends `decode`, or the loading of the model; None: one of the model's own.
        probe: sees what is multiplied; experts must not lie on devices then.

    Raises:
        ModelLoadFailed: llama.cpp refuses the file or cannot make the context, with its own reason; or `abort` was set.
        InvalidRequest: routing is to be traced, and there is none, or not to that file; or a device is not there.
    """

    def __init__(
        self, path: Path, options: EngineOptions, abort: AbortFlag | None = None, probe: ActivationProbe | None = None
    ) -> None:
        self.path = path
        self._abort_flag = abort or AbortFlag()
        self._handles = ExitStack()
        self.warnings: list[str] = []
        self._devices = EngineDevices(None, (), ())
        self._offload: ExpertOffload | None = None
        self._stock: StockPlacement | None = None
        self._embedder: Embedder | None = None
        self._callback: RoutingCapture | ActivationProbe | None = probe
        os.environ["GGML_NO_BACKTRACE"] = "1"  # on an abort ggml would start a debugger on this process
        try:
            self._open(options)
        except BaseException:
            self._handles.close()
            raise

    def _open(self, options: EngineOptions) -> None:
        native_log()  # before ggml says anything, from whatever thread
        gguf = self._read_header(options)
        self._metadata = gguf.metadata
        self.n_ctx = options.n_ctx or _default_n_ctx(gguf, options)
        self.shares_cells = options.n_cells is not None
        self._place(gguf, options)
        self._model = self._load(options, _n_unloaded(gguf))
        self._handles.callback(llama_cpp.llama_model_free, self._model)
        handle = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary = Vocabulary(handle, gguf.metadata)
        # Recurrent layers keep one state a sequence: nothing to share, no way back. Sliding windows forget.
        recurrent = llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
        self.remembers_all = not recurrent and llama_cpp.llama_model_n_swa(self._model) == 0
        kept = _PREFIXES_KEPT if self.shares_cells and self.remembers_all else 0
        self.n_slots = options.n_parallel + kept
        self.n_cells = options.n_cells or self.n_ctx * options.n_parallel
        self.info: ModelInfo = model_info(self.path, self._model, self.vocabulary, self.n_ctx)
        if options.trace_file:
            writer = self._handles.enter_context(open_trace(Path(options.trace_file), self.info))
            if self._offload:
                self._offload.session.record_with(writer.record)
            else:
                self._callback = RoutingCapture(writer.record, self.info.n_experts_used)
        if self._offload and isinstance(self._callback, ActivationProbe):
            self._offload.session.watch_with(self._callback)
            self._callback.experts_are_watched = True
        self.context = self._new_context(self._context_params(options))
        n_streams = 1 if self.shares_cells else options.n_parallel
        flash = self._flash_attention(options)
        self.state_layout = StateLayout(options.cache_type_k, options.cache_type_v, flash, n_streams)
        self.gains_by_cuts = not flash and not self.info.n_experts  # step_plan.py says why
        self._handles.callback(llama_cpp.llama_free, self.context)
        self._memory = llama_cpp.llama_get_memory(self.context)
        self.n_batch = int(llama_cpp.llama_n_batch(self.context))
        self.n_ubatch = int(llama_cpp.llama_n_ubatch(self.context))
        self.batch = DecodeBatch(self.n_batch)

    def decode(self) -> int:
        """Compute `batch`. Returns llama_decode's answer: 0 done, 1 no room in the cache, 2 aborted, < 0 failed."""
        if self._offload:
            self._offload.session.before_batch(int(self.batch.native.n_tokens))
        status = int(llama_cpp.llama_decode(self.context, self.batch.native))
        if self._offload:
            if (error := self._offload.session.take_error()) is not None:
                raise error
            self._offload.session.after_batch()
        if self._callback:
            self._callback.raise_error()
        return status

    def logits(self, indexes: Sequence[int]) -> list[TokenLogits]:
        """Return the logits after those tokens of `batch`, all that wanted any, until the next `decode`."""
        if not indexes:
            return []
        batch = BatchLogits.of_context(self.context, len(indexes), self.vocabulary.n_tokens)
        return [TokenLogits(batch, row, index) for row, index in enumerate(indexes)]

    def embed(self, token_lists: Sequence[Sequence[int]], options: EngineOptions) -> Embeddings:
        """Return the vectors of lists of tokens; `options` as when the model was opened.

        Raises:
            InvalidRequest: this model gives none.
            ModelLoadFailed: llama.cpp cannot make the context for them.
            GenerationFailed: it fails to compute, or was made to stop.
        """
        if self._embedder is None:
            self._embedder = self._open_embedder(options)
            self._handles.callback(self._embedder.close)
        return self._embedder.embed(token_lists)

    def abort(self) -> None:
        """Make a running `decode` return 2 soon (CPU backend). From any thread."""
        self._abort_flag.set()

    def rearm(self) -> None:
        """Forget an `abort`."""
        self._abort_flag.clear()

    def truncate(self, slot: int, n_kept: int) -> bool:
        """Remove a slot's tokens from position `n_kept` on. False: this memory cannot do that; nothing was removed."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, slot, n_kept, -1))

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Give `target`, which holds nothing, the first `n_tokens` of `source`."""
        if self.shares_cells:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)
        else:  # between streams llama.cpp copies all or aborts the process
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self.truncate(target, n_tokens)

    def state_bytes(self, slot: int, n_tokens: int) -> int:
        """Return how large a file `save_state` would write."""
        size = int(llama_cpp.llama_state_seq_get_size(self.context, slot))  # with 8 bytes that are in no file
        return size - 8 + 12 + 4 * n_tokens

    def save_state(self, slot: int, tokens: Sequence[int], path: Path) -> int:
        """Write the cells of a slot, which holds `tokens`, over the file `path`; return its bytes, 0: it failed."""
        native = (llama_cpp.llama_token * len(tokens))(*tokens)
        return int(llama_cpp.llama_state_seq_save_file(self.context, os.fsencode(path), slot, native, len(tokens)))

    def load_state(self, slot: int, n_tokens: int, path: Path) -> int:
        """Put the cells of a file of `save_state` in place of a slot's; return the bytes read, 0: it failed.

        llama.cpp takes the file as it is: it must be known to be whole, and of this model and layout.
        """
        native, count = (llama_cpp.llama_token * n_tokens)(), ctypes.c_size_t()
        return int(
            llama_cpp.llama_state_seq_load_file(
                self.context, os.fsencode(path), slot, native, n_tokens, ctypes.byref(count)
            )
        )

    @property
    def device_memory(self) -> tuple[DeviceMemory, ...]:
        """The devices that it may use."""
        return self._devices.memory

    @property
    def placement(self) -> str | None:
        """Where experts and layers are, in a line; None: all in main memory, or on devices, without the scheduler."""
        if self._offload:
            return self._offload.plan.summary()
        return (
            self._stock.summary() if self._stock and (len(self._stock.parts) > 1 or not self._stock.is_whole) else None
        )

    def offload_stats(self) -> dict[str, Any] | None:
        """What the expert scheduler did so far; None: there is none."""
        return self._offload.stats() if self._offload else None

    def forget(self) -> None:
        """Empty the whole cache."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free everything."""
        self._handles.close()

    def _load(self, options: EngineOptions, n_unloaded: int = 0) -> Any:
        log = native_log()
        n_lines = log.n_lines
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = options.repack
        goes_on = llama_cpp.llama_progress_callback(lambda _share, _data: not self._abort_flag.is_set)
        params.progress_callback = goes_on
        if options.n_gpu_layers is not None or llama_cpp.llama_supports_gpu_offload():
            params.n_gpu_layers = -1 if options.n_gpu_layers is None else options.n_gpu_layers
        plan = self._offload.plan.devices if self._offload else self._stock
        if plan or options.devices is not None:
            _kept = self._devices.tell(params, plan.layer_counts if plan else (), n_unloaded)
        if self._offload:
            model = self._offload.load(params, str(self.path))
        else:
            overrides = StockOverrides(self._devices, self._stock.cpu_experts if self._stock else ())
            overrides.tell(params)
            model = llama_cpp.llama_model_load_from_file(os.fsencode(self.path), params)
        if not model:
            raise ModelLoadFailed(f"{self.path}: {_reason(log.errors_since(n_lines))}", "run `qwenctl verify` on it")
        return model

    def _read_header(self, options: EngineOptions) -> GgufFile:
        try:
            return read_gguf(self.path)
        except GgufError:
            llama_cpp.llama_model_free(self._load(options))  # llama.cpp has a reason of its own to refuse it, as a rule
            raise

    def _place(self, gguf: GgufFile, options: EngineOptions) -> None:
        """Find the devices and decide what goes where: experts by the scheduler, or llama.cpp's own way."""
        llama_cpp.llama_backend_init()
        self._devices = engine_devices(options.devices)
        self._devices.check_split(options.split)
        n_streams = 1 if self.shares_cells else options.n_parallel
        n_cells = options.n_cells or _padded(self.n_ctx)
        n_threads = options.n_threads or default_n_threads()
        context = ContextSize(n_cells, n_streams, options.n_outputs or options.n_parallel, n_threads)
        self._offload = open_offload(gguf, options, self._devices, context, self._abort_flag.addresses, self.warnings)
        if self._offload:
            self._handles.callback(self._offload.close)
        else:
            self._stock = plan_stock(gguf, options, self._devices, context)

    def _context_params(self, options: EngineOptions) -> Any:
        n_threads = options.n_threads or default_n_threads()
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.n_cells if self.shares_cells else _padded(self.n_ctx) * options.n_parallel
        params.n_batch = max(options.n_batch, options.n_parallel)
        params.n_ubatch = self._n_ubatch(options)
        params.n_seq_max = self.n_slots
        params.n_outputs_max = max(self.n_slots, options.n_outputs or 0)
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = self.shares_cells
        params.type_k, params.type_v = _GGML_TYPES[options.cache_type_k], _GGML_TYPES[options.cache_type_v]
        params.flash_attn_type = self._flash_attention(options)
        params.no_perf = True
        function, params.abort_callback_data = self._abort_flag.addresses
        params.abort_callback = llama_cpp.ggml_abort_callback(function)
        if self._callback:
            params.cb_eval = self._callback.callback
        return params

    def _new_context(self, params: Any) -> Any:
        log = native_log()
        n_lines = log.n_lines
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            reason = _reason(log.errors_since(n_lines))
            what = f"no context of {params.n_ctx} tokens: {reason}"
            raise ModelLoadFailed(f"{self.path}: {what}", "try a smaller --ctx or --parallel")
        return context

    def _open_embedder(self, options: EngineOptions) -> Embedder:
        if self._offload:
            what = f"{self.info.name} gives no embeddings while its experts are offloaded"
            raise InvalidRequest(what, "use a model for embeddings, or --offload off")
        pooling = pooling_of(self._metadata)
        params = self._context_params(options)
        n_cells = params.n_ctx = _padded(self.n_ctx)
        n_rows = rows_at_once(self.vocabulary.n_tokens, int(params.n_batch))
        params.n_seq_max, params.n_outputs_max, params.kv_unified = MOST_LISTS, max(MOST_LISTS, n_rows), True
        params.embeddings, params.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
        params.cb_eval = llama_cpp.llama_context_default_params().cb_eval  # routing is recorded of answers only
        return Embedder(self._new_context(params), n_cells, n_rows, pooling)

    def _n_ubatch(self, options: EngineOptions) -> int:
        chosen = self._offload.plan.n_ubatch if self._offload else STOCK_UBATCH
        return options.n_ubatch or chosen

    def _flash_attention(self, options: EngineOptions) -> int:
        auto, off, on = -1, 0, 1  # enum llama_flash_attn_type
        if options.flash_attention is not None:
            return on if options.flash_attention else off
        if self._offload:
            return on if self._offload.plan.flash_attention else off
        n_heads = int(llama_cpp.llama_model_n_head(self._model))
        n_seen = self.n_cells if self.shares_cells else self.n_ctx
        n_tokens, cpu_only = min(self._n_ubatch(options), options.n_batch), not self._devices.has_gpu
        better = flash_is_better(n_heads, n_tokens, n_seen, options.cache_type_v, cpu_only=cpu_only)
        return auto if better else off


def _default_n_ctx(gguf: GgufFile, options: EngineOptions) -> int:
    most = options.n_cells or max(2048, _DEFAULT_CELLS // options.n_parallel)
    return min(gguf.n_ctx_train or most, most, _MOST_DEFAULT_N_CTX)


def _n_unloaded(gguf: GgufFile) -> int:
    """Return the layers for multi-token prediction."""
    count = gguf.metadata.get(f"{gguf.metadata.get('general.architecture')}.nextn_predict_layers", 0)
    return count if isinstance(count, int) else 0


def _padded(n_ctx: int) -> int:
    """llama.cpp rounds a stream's cells up to a multiple of 256."""
    return -(-n_ctx // 256) * 256


def _reason(errors: list[str]) -> str:
    return errors[0] if errors else "llama.cpp gives no reason"
