"""llama.cpp as a tokenizer: loads the vocabulary of a GGUF file in a child process and encodes texts.

A child, because llama.cpp aborts on a vocabulary that it does not like: this file run as a script.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def llama_encode(path: Path, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
    """Return the ids of each text, without tokens added around it."""
    answer: list[list[int]] = _ask(path, {"texts": list(texts), "parse_special": parse_special})["ids"]
    return answer


def llama_vocabulary(path: Path) -> dict[str, Any]:
    """Return what llama.cpp made of the vocabulary: size, special ids, ends of generation, whether it adds bos."""
    return _ask(path, {"texts": [], "parse_special": True})


def _ask(path: Path, question: dict[str, Any]) -> dict[str, Any]:
    job = json.dumps(question | {"path": str(path)})
    run = subprocess.run(
        [sys.executable, __file__], input=job, capture_output=True, text=True, check=False, timeout=300
    )
    if run.returncode:
        raise AssertionError(f"llama.cpp exited {run.returncode} on {path}: {run.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def _child(job: dict[str, Any]) -> dict[str, Any]:
    import llama_cpp as lib

    log = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(log, ctypes.c_void_p(0))
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(job["path"].encode(), params)
    if not model:
        raise SystemExit("llama.cpp refused the file")
    vocab = lib.llama_model_get_vocab(model)
    n_tokens = lib.llama_vocab_n_tokens(vocab)
    ids = [_encode(lib, vocab, text.encode(), job["parse_special"]) for text in job["texts"]]
    return {
        "ids": ids,
        "n_tokens": n_tokens,
        "bos": lib.llama_vocab_bos(vocab),
        "eos": lib.llama_vocab_eos(vocab),
        "eot": lib.llama_vocab_eot(vocab),
        "pad": lib.llama_vocab_pad(vocab),
        "add_bos": bool(lib.llama_vocab_get_add_bos(vocab)),
        "add_eos": bool(lib.llama_vocab_get_add_eos(vocab)),
        "ends": [token for token in range(n_tokens) if lib.llama_vocab_is_eog(vocab, token)],
    }


def _encode(lib: Any, vocab: Any, text: bytes, parse_special: bool) -> list[int]:
    room = len(text) + 8  # a token is a byte at least
    tokens = (lib.llama_token * room)()
    count = lib.llama_tokenize(vocab, text, len(text), tokens, room, False, parse_special)
    if count < 0:
        raise SystemExit(f"llama_tokenize wants room for {-count} tokens")
    return list(tokens[:count])


if __name__ == "__main__":
    json.dump(_child(json.load(sys.stdin)), sys.stdout)
