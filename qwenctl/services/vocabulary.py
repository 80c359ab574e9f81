"""The vocabulary of an opened model: text to tokens, tokens to bytes. Knows no templates."""

from __future__ import annotations

import ctypes
import unicodedata
from typing import Any

import llama_cpp

# What `tokenizers` calls the normalizer "NFC" is not part of GGUF. Our own conversion writes this key; for files of
# others, these pre-tokenizers belong to families whose tokenizer.json normalises so.
NORMALIZER_KEY = "qwenctl.tokenizer.normalizer"
_NFC_PRE_TOKENIZERS = frozenset({"qwen2", "qwen35"})


def normalises_nfc(normalizer: str | None, pre_tokenizer: str | None) -> bool:
    """Return whether text must be put into Unicode's normal form C before it is tokenized."""
    if normalizer is not None:
        return normalizer == "nfc"
    return pre_tokenizer in _NFC_PRE_TOKENIZERS


class Vocabulary:
    """Wraps llama_vocab; lives as long as its model.

    Args:
        handle: llama_vocab pointer.
        nfc: whether text is normalised.
    """

    def __init__(self, handle: Any, *, nfc: bool) -> None:
        self.handle = handle
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(handle))
        self._nfc = nfc
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> tuple[int, ...]:
        """Return the tokens of `text`.

        Args:
            text: any; halves of surrogate pairs count as "?".
            add_special: let the model's own begin and end tokens be added where its file says so. Chat templates write
                them themselves.
            parse_special: "<|im_start|>" and the like are the tokens of that name, not their characters.
        """
        if self._nfc:
            text = unicodedata.normalize("NFC", text)
        data = text.encode("utf-8", "replace")
        n_room = len(data) + 8
        while True:
            tokens = (llama_cpp.llama_token * n_room)()
            n_tokens = llama_cpp.llama_tokenize(
                self.handle, data, len(data), tokens, n_room, add_special, parse_special
            )
            if n_tokens >= 0:
                return tuple(tokens[:n_tokens])
            n_room = -n_tokens

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token shows: none for control tokens, user-defined ones ("<think>") as they are."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._render(token, special=False)
        return piece

    def text(self, token: int) -> str:
        """Return how the vocabulary writes a token, control tokens too; "" for none (-1)."""
        return "" if token < 0 else self._render(token, special=True).decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Return whether a token ends the turn (llama.cpp's EOG: end of text, of turn, of message)."""
        ends = self._ends.get(token)
        if ends is None:
            ends = self._ends[token] = bool(llama_cpp.llama_vocab_is_eog(self.handle, token))
        return ends

    def _render(self, token: int, *, special: bool) -> bytes:
        n_room = 64
        while True:
            buffer = ctypes.create_string_buffer(n_room)
            n_bytes = llama_cpp.llama_token_to_piece(self.handle, token, buffer, n_room, 0, special)
            if n_bytes >= 0:
                return buffer.raw[:n_bytes]
            n_room = -n_bytes
