"""The logits of a text, from the devices of workers or without: run as a process of its own, since ggml may abort it.

python -m worker_bench.logits MODEL OUT.npy N_TOKENS [HOST:PORT …]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from quant.libggml import load_libggml
from qwenctl.moe.devices import DeviceCalls, add_rpc_server
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.logits import LogitsModel
from qwenctl.services.native_log import native_log
from qwenctl.services.native_model import open_native_model

_TEXT = Path(__file__).parents[2] / "README.md"


def main(path: Path, out: Path, n_tokens: int, endpoints: list[str]) -> None:
    """Write f32 (n_tokens, n_vocab)."""
    native_log()
    calls = DeviceCalls(Ggml(load_libggml().path.parent))
    for endpoint in endpoints:
        add_rpc_server(calls, endpoint)
    options = EngineOptions(n_ctx=n_tokens, n_threads=1, n_outputs=128, n_ubatch=128, repack=False)
    model, thread = open_native_model(path, options)
    print(model.placement or "all in main memory", file=sys.stderr)
    tokens = np.array([model.vocabulary.tokenize(_TEXT.read_text(encoding="utf-8"))[:n_tokens]], dtype=np.int32)
    rows = [block.logits.copy() for block in LogitsModel(model, thread, options).compute(tokens)]
    np.save(out, np.concatenate(rows))
    thread.run(model.close)
    thread.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
