"""Prompts of real text: the articles of the Declaration of Human Rights in 59 languages, a licence, the README.

Each prompt is another part of it; after the last the first comes again. The text is tokenized by llama.cpp once, and
both engines are given the same tokens.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import llama_cpp

_FILES = ("LICENSE", "tests/data/human_rights.tsv", "README.md")


class Prompts:
    """Hands out prompts of any length."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self._tokens = tokens
        self._at = 0

    def take(self, n_tokens: int) -> tuple[int, ...]:
        """Return the next part of the text."""
        found = tuple(itertools.islice(itertools.cycle(self._tokens), self._at, self._at + n_tokens))
        self._at = (self._at + n_tokens) % len(self._tokens)
        return found


def text_tokens(model: Path, repository: Path) -> tuple[int, ...]:
    """Return the tokens of the text, with the vocabulary of `model`."""
    log = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    handle = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
    if not handle:
        raise SystemExit(f"llama.cpp cannot read the vocabulary of {model}")
    vocabulary = llama_cpp.llama_model_get_vocab(handle)
    tokens: list[int] = []
    for name in _FILES:
        for line in (repository / name).read_text(encoding="utf-8").splitlines(keepends=True):
            text = line.encode()
            room = (llama_cpp.llama_token * (len(text) + 8))()
            n_tokens = llama_cpp.llama_tokenize(vocabulary, text, len(text), room, len(room), False, False)
            tokens += room[:n_tokens]
    llama_cpp.llama_model_free(handle)
    return tuple(tokens)
