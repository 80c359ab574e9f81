"""Every position's logits of given token sequences, straight from llama.cpp: what quality measurements need.

Knows nothing of text, templates or sampling; the engine (engine.py) is the way to generate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed, ModelLoadFailed
from qwenctl.services.native_log import native_log


def sequence_logits(
    model_path: Path, sequences: npt.NDArray[np.int32], *, n_threads: int = 2
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the logits, f32 (n_tokens, n_vocab), of each row of `sequences`, i32 (n_sequences, n_tokens).

    Each row is computed alone from an empty KV cache (F16, as llama.cpp does by default).

    Raises:
        ModelLoadFailed: llama.cpp refuses the file.
        GenerationFailed: llama.cpp fails to compute a sequence.
    """
    n_tokens = sequences.shape[1]
    native_log()  # from here on llama.cpp's own lines are kept, not printed
    with ExitStack() as handles:
        model = llama_cpp.llama_model_load_from_file(str(model_path).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise ModelLoadFailed(f"{model_path}: llama.cpp refuses the file", "run `qwenctl verify` on it")
        handles.callback(llama_cpp.llama_model_free, model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_tokens
        params.n_threads = params.n_threads_batch = n_threads
        context = llama_cpp.llama_init_from_model(model, params)
        if not context:
            raise ModelLoadFailed(f"{model_path}: no context of {n_tokens} tokens could be made")
        handles.callback(llama_cpp.llama_free, context)
        batch = llama_cpp.llama_batch_init(n_tokens, 0, 1)
        handles.callback(llama_cpp.llama_batch_free, batch)
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        for tokens in sequences:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            _fill(batch, tokens)
            status = llama_cpp.llama_decode(context, batch)
            if status != 0:
                raise GenerationFailed(f"{model_path}: llama_decode failed with status {status}")
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(n_tokens, n_vocab))
            yield logits.copy()


def _fill(batch: llama_cpp.llama_batch, tokens: npt.NDArray[np.int32]) -> None:
    batch.n_tokens = len(tokens)
    for position, token in enumerate(tokens):
        batch.token[position] = int(token)
        batch.pos[position] = position
        batch.n_seq_id[position] = 1
        batch.seq_id[position][0] = 0
        batch.logits[position] = 1
