"""The text that models are evaluated on: a file's, what is piped in, or the one that comes with the program.

Knows bytes, characters and, by way of a model's vocabulary, tokens; nothing of scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import llama_cpp
import numpy as np

import qwenctl
from quant.gguf_read import read_gguf
from quant.perplexity import Chunks, cut_chunks
from qwenctl.errors import InvalidRequest, ModelLoadFailed
from qwenctl.services.native_log import native_log
from qwenctl.services.text_bytes import decode_utf8
from qwenctl.services.vocabulary import Vocabulary

SHIPPED_FOLDER = Path(qwenctl.__file__).resolve().parent / "evaluation_text"
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text and what to call it in messages."""

    name: str
    text: str


def shipped_text() -> EvaluationText:
    """Return the text that comes with the program: all its files, one after the other.

    Raises:
        InvalidRequest: this installation came without it.
    """
    files = sorted(SHIPPED_FOLDER.glob("*.txt"))
    if not files:
        raise InvalidRequest(f"there is no text in {SHIPPED_FOLDER}", "name a text file, or reinstall")
    return EvaluationText("the built-in text", "\n\n".join(path.read_text("utf-8").strip() for path in files))


def read_file(path: Path, warn: Callable[[str], None]) -> EvaluationText:
    """Return a file's text.

    Args:
        path: the file.
        warn: is told in a line if the file is not UTF-8.

    Raises:
        InvalidRequest: it cannot be read, or holds more than `MOST_BYTES`.
    """
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path), warn)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}", "name a text file, or - for standard input") from error


def read_stream(stream: BinaryIO, name: str, warn: Callable[[str], None]) -> EvaluationText:
    """Return the text of a byte stream, without byte order mark and last line break.

    Raises:
        InvalidRequest: more than `MOST_BYTES`.
    """
    data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InvalidRequest(f"{name} holds more than {MOST_BYTES >> 20} MiB of text", "a tenth of that is plenty")
    return EvaluationText(name, decode_utf8(data, name, warn).removesuffix("\n"))


def chunks_of(
    text: EvaluationText, path: Path, n_ctx: int, most_chunks: int | None, *, parse_special: bool = False
) -> Chunks:
    """Return the chunks of `text` by the vocabulary of a model's file, of which nothing else is loaded.

    Args:
        text: the text.
        path: the model's file.
        n_ctx: tokens of a chunk.
        most_chunks: None: all that there are.
        parse_special: "<|im_start|>" and the like are the tokens of that name, not their characters.

    Raises:
        InvalidRequest: the text is shorter than a chunk.
        ModelLoadFailed: llama.cpp refuses the vocabulary.
    """
    model = _load_vocabulary(path)
    try:
        vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(model), read_gguf(path).metadata)
        tokens = vocabulary.tokenize(text.text, add_special=True, parse_special=parse_special)
        begin_token = vocabulary.begin_token
    finally:
        llama_cpp.llama_model_free(model)
    if len(tokens) < n_ctx:
        raise InvalidRequest(
            f"{text.name} is too short: {len(tokens):,} tokens, and one chunk takes {n_ctx:,}",
            "give a longer text, or a smaller --ctx",
        )
    return cut_chunks(np.array(tokens, np.int32), n_ctx, begin_token, most_chunks)


def _load_vocabulary(path: Path) -> Any:
    log = native_log()
    n_lines = log.n_lines
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        reason = next(iter(log.errors_since(n_lines)), "llama.cpp gives no reason")
        raise ModelLoadFailed(f"{path}: no vocabulary: {reason}", "run `qwenctl verify` on it")
    return model
