"""Stock llama.cpp from the installed wheel, through its plain low-level API: mmap and its own defaults.

Runs in a child process: `measure(task, tell)`. Knows nothing of qwenctl's engine.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import llama_cpp
import numpy as np

from .stock_settings import StockSettings
from .task import N_CTX, Result, Run, Task, own_read_bytes


class _Override(ctypes.Structure):
    """`struct llama_model_tensor_buft_override` (llama.h)."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def measure(task: Task, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Do the task's runs, and tell of each."""
    started = time.perf_counter()
    model = _StockModel(task.path, StockSettings(**task.settings), task.n_threads)
    tell({"kind": "opened", "load_s": time.perf_counter() - started})
    for run in task.runs:
        for result in model.run(run):
            tell({"kind": "run", **asdict(result)})


class _StockModel:
    def __init__(self, path: str, settings: StockSettings, n_threads: int) -> None:
        self._settings = settings
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = settings.repack
        params.n_gpu_layers = settings.n_gpu_layers
        if settings.n_cpu_moe:
            self._overrides = _cpu_experts(settings.n_cpu_moe)
            params.tensor_buft_overrides = ctypes.addressof(self._overrides)
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = N_CTX
        context.n_ubatch = settings.n_ubatch
        context.n_threads = context.n_threads_batch = n_threads
        self._context = self._model and llama_cpp.llama_init_from_model(self._model, context)
        if not self._context:
            raise SystemExit(f"llama.cpp cannot open {path}")
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def run(self, run: Run) -> list[Result]:
        """Compute the prompt, and decode if the run says so."""
        results: list[Result] = []
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        read_before = own_read_bytes()
        if run.tells_512:
            n_tokens, first_512_s = self._prefill(run.prompt[:512], run.max_s)
            read = own_read_bytes() - read_before
            results.append(Result("prefill_512", run.state, n_tokens, first_512_s, read, first_512_s))
            n_more, more_s = self._prefill(run.prompt[512:], run.max_s)
            n_tokens, first_token_s = n_tokens + n_more, first_512_s + more_s
        else:
            n_tokens, first_token_s = self._prefill(run.prompt, run.max_s)
        first_token_read = own_read_bytes()
        n_tokens, seconds = self._decode(run) if run.n_decoded else (n_tokens, first_token_s)
        read = own_read_bytes() - (first_token_read if run.n_decoded else read_before)
        return [*results, Result(run.phase, run.state, n_tokens, seconds, read, first_token_s, first_token_read)]

    def _prefill(self, prompt: Sequence[int], max_s: float) -> tuple[int, float]:
        """Compute the prompt a micro-batch a call, which is what llama.cpp does inside one call."""
        started, n_done = time.perf_counter(), 0
        while n_done < len(prompt) and (n_done == 0 or time.perf_counter() - started < max_s):
            part = prompt[n_done : n_done + self._settings.n_ubatch]
            self._compute(part)
            n_done += len(part)
        self._best_token()
        return n_done, time.perf_counter() - started

    def _decode(self, run: Run) -> tuple[int, float]:
        started, n_done = time.perf_counter(), 0
        while n_done < run.n_decoded - 1 and (n_done == 0 or time.perf_counter() - started < run.max_s):
            self._compute((self._best_token(),))
            n_done += 1
        self._best_token()
        return n_done, time.perf_counter() - started

    def _compute(self, tokens: Sequence[int]) -> None:
        native = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(native, len(tokens)))
        if status:
            raise SystemExit(f"llama_decode returned {status}")

    def _best_token(self) -> int:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (self._n_vocab,))
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise SystemExit("llama.cpp's logits are not finite")
        return best


def _cpu_experts(n_layers: int) -> Any:
    """Return overrides that put the experts of the first layers into the CPU's memory, as --n-cpu-moe does."""
    library = llama_cpp.llama_cpp._lib
    library.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    cpu = library.ggml_backend_cpu_buffer_type()
    patterns = [rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_exps".encode() for layer in range(n_layers)]
    return (_Override * (n_layers + 1))(*((pattern, cpu) for pattern in patterns), (None, None))
