"""A child process that loads the GGUF file named on its command line with llama.cpp and decodes one batch.

Exit status 0: it worked. 1: llama.cpp refused it. Anything else: llama.cpp took the process down.
"""

from __future__ import annotations

import ctypes
import resource
import sys

import llama_cpp


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), parameters)
    if not model:
        return 1
    context_parameters = llama_cpp.llama_context_default_params()
    context_parameters.n_ctx = context_parameters.n_batch = 64
    context_parameters.n_threads = context_parameters.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, context_parameters)
    if not context:
        return 1
    tokens = (llama_cpp.llama_token * 32)()
    text = "Straße 42 <|im_end|>\n".encode()
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    n_tokens = llama_cpp.llama_tokenize(vocabulary, text, len(text), tokens, 32, True, True)
    if n_tokens < 1 or llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, n_tokens)):
        return 1
    piece = ctypes.create_string_buffer(64)
    llama_cpp.llama_token_to_piece(vocabulary, tokens[0], piece, 64, 0, True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
