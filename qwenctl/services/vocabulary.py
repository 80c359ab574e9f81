"""The vocabulary of an opened model: text to tokens, tokens to bytes. Knows no templates."""

from __future__ import annotations

import ctypes
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import llama_cpp

from quant.metadata import NORMALIZER_KEY
from quant.tokenizer import TokenType
from qwenctl.services.regex_safety import safe_pieces
from qwenctl.services.text_segments import TextSegments

# What `tokenizers` calls the normalizer "NFC" is not part of GGUF. Our own conversion writes NORMALIZER_KEY; for files
# of others, these pre-tokenizers belong to families whose tokenizer.json normalises so.
_NFC_PRE_TOKENIZERS = frozenset({"qwen2", "qwen35"})
_BYTE_LEVEL_BPE = "gpt2"  # tokenizer.ggml.model

# The lines of a batch and the turns of a chat have most of their text in common. At most some 40 MB.
_KEPT_PIECES, _KEPT_CHARACTERS = 64, 1 << 14


def normalises_nfc(normalizer: str | None, pre_tokenizer: str | None) -> bool:
    """Return whether text must be put into Unicode's normal form C before it is tokenized."""
    if normalizer is not None:
        return normalizer == "nfc"
    return pre_tokenizer in _NFC_PRE_TOKENIZERS


class Vocabulary:
    """Wraps llama_vocab; lives as long as its model.

    llama.cpp overrides what a file says of some tokens, by their text: Qwen's plain `</s>` becomes a control token that
    ends the turn. The file's own word counts here, as it does for transformers.

    Args:
        handle: llama_vocab pointer.
        metadata: of the model's file, as quant.gguf_read returns it.
    """

    def __init__(self, handle: Any, metadata: Mapping[str, Any]) -> None:
        self.handle = handle
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(handle))
        self._pre_tokenizer = metadata.get("tokenizer.ggml.pre")
        nfc = normalises_nfc(metadata.get(NORMALIZER_KEY), self._pre_tokenizer)
        self._normalizer = "nfc" if nfc else None
        self._types = metadata.get("tokenizer.ggml.token_type", ())
        self._segments = self._find_segments(metadata)
        self._declared_ends = {metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")}
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._kept_tokens = lru_cache(_KEPT_PIECES)(self._piece_tokens)  # of the pieces that were used last

    def _find_segments(self, metadata: Mapping[str, Any]) -> TextSegments | None:
        """Return what cuts text at added tokens; None for vocabularies whose spaces depend on what stands before."""
        tokens = metadata.get("tokenizer.ggml.tokens", ())
        if metadata.get("tokenizer.ggml.model") != _BYTE_LEVEL_BPE or len(tokens) != len(self._types):
            return None
        return TextSegments(cast("list[str]", tokens), self._types, self._normalizer)

    @property
    def begin_token(self) -> int | None:
        """The token that stands before every text; None: the model's file wants none."""
        return int(llama_cpp.llama_vocab_bos(self.handle)) if llama_cpp.llama_vocab_get_add_bos(self.handle) else None

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> tuple[int, ...]:
        """Return the tokens of `text`.

        Args:
            text: any; halves of surrogate pairs count as "?".
            add_special: let the model's own begin token be added where its file says so. Chat templates write it
                themselves.
            parse_special: "<|im_start|>" and the like are the tokens of that name, not their characters.
        """
        if self._segments is None:
            if self._normalizer:
                text = unicodedata.normalize("NFC", text)
            return self._tokenize_natively(text, add_special=add_special, parse_special=parse_special)
        begin_token = self.begin_token if add_special else None
        tokens = [] if begin_token is None else [begin_token]
        for part in self._segments.cut(text, parse_special=parse_special):
            if isinstance(part, int):
                tokens.append(part)
            else:
                for piece in safe_pieces(part, self._pre_tokenizer):
                    tokens += (self._kept_tokens if len(piece) <= _KEPT_CHARACTERS else self._piece_tokens)(piece)
        return tuple(tokens)

    def ended(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return `tokens` with the end token after them, where the model's file wants it after a whole text."""
        wanted = llama_cpp.llama_vocab_get_add_eos(self.handle)
        end = int(llama_cpp.llama_vocab_eos(self.handle)) if wanted else -1
        return tuple(tokens) if end < 0 or (tokens and tokens[-1] == end) else (*tokens, end)

    def _piece_tokens(self, piece: str) -> tuple[int, ...]:
        return self._tokenize_natively(piece, add_special=False, parse_special=False)

    def _tokenize_natively(self, text: str, *, add_special: bool, parse_special: bool) -> tuple[int, ...]:
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
        """Return whether a token ends the turn: llama.cpp's EOG, but for tokens that the file calls plain text."""
        ends = self._ends.get(token)
        if ends is None:
            ends = bool(llama_cpp.llama_vocab_is_eog(self.handle, token)) and not self._is_plain(token)
            self._ends[token] = ends
        return ends

    def _is_plain(self, token: int) -> bool:
        known = token < len(self._types)
        return known and int(self._types[token]) == TokenType.NORMAL and token not in self._declared_ends

    def _render(self, token: int, *, special: bool) -> bytes:
        n_room = 64
        while True:
            buffer = ctypes.create_string_buffer(n_room)
            n_bytes = llama_cpp.llama_token_to_piece(self.handle, token, buffer, n_room, 0, special)
            if n_bytes >= 0:
                return buffer.raw[:n_bytes]
            n_room = -n_bytes
