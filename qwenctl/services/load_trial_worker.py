"""The child process of load_trial.py: let llama.cpp open a file here, where it may abort without harm.

    python load_trial_worker.py MODEL.gguf [--compute]        prints "ready" as its last act

Weights and cache are only planned (`no_alloc`), so 142 GB cost no more than 92 MB; with --compute the file is mapped
and two tokens are computed. Errors of llama.cpp go to standard error, a line each. Imports nothing of ours, and of
llama_cpp only the bindings: its package would also bring a chat server's worth of modules.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import types
from typing import Any

_LOG_ERROR = 4  # enum ggml_log_level


def bindings() -> Any:
    """Import llama_cpp/llama_cpp.py without the package around it."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("llama-cpp-python is not installed")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


def main(path: str, *, compute: bool) -> int:
    """Try it. Returns the exit code: 0 or, with a reason on standard error, 1."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    llama = bindings()

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, _user_data: object) -> None:
        if level == _LOG_ERROR:
            os.write(2, text)

    llama.llama_log_set(log, ctypes.c_void_p(None))
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.no_alloc = not compute
    params.load_mode = 1 if compute else 0  # enum llama_load_mode: MMAP, NONE
    params.use_extra_bufts = not compute  # rearranged weights take time, and memory of their own
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return 1
    limits = llama.llama_context_default_params()
    limits.n_ctx = limits.n_batch = limits.n_ubatch = 256
    limits.n_threads = limits.n_threads_batch = 1
    context = llama.llama_init_from_model(model, limits)
    if not context:
        return 1
    if compute:
        tokens = (llama.llama_token * 2)(0, 0)
        if llama.llama_decode(context, llama.llama_batch_get_one(tokens, 2)) != 0:
            return 1
    os.write(1, b"ready\n")
    return 0


if __name__ == "__main__":
    # Not through the interpreter's end: what is to be known is known, and freeing gigabytes takes time.
    os._exit(main(sys.argv[1], compute="--compute" in sys.argv[2:]))
