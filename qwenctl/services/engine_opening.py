"""Where an engine runs: in this process, or, with remote devices, in one that ggml may abort."""

from __future__ import annotations

from pathlib import Path

from qwenctl.services.engine import Engine
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.engine_process import EngineProcess


def open_engine(path: Path, options: EngineOptions) -> Engine | EngineProcess:
    """Load a GGUF file.

    Raises:
        ModelLoadFailed: llama.cpp refuses it, or a server of `options.rpc` does not answer.
    """
    return EngineProcess.open(path, options) if options.rpc else Engine.open(path, options)
