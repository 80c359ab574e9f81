"""Calibration text as tokens, in chunks of equal length: what a model is given to read.

As llama-imatrix does it: one stream, cut wherever a chunk is full; each chunk is read from an empty cache, and where a
model begins its texts with a token of its own, that token takes the place of the chunk's first. What does not fill a
chunk is left out, unless it is all there is. Knows nothing of statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qwenctl.errors import InvalidRequest, TemplateFailed
from qwenctl.services.calibration_text import Piece, Talk
from qwenctl.services.chat_template import ChatTemplate
from qwenctl.services.vocabulary import Vocabulary

_LEAST_TOKENS = 16  # llama-imatrix ignores smaller batches

Chunk = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenStream:
    """The tokens of a text; `n_plain_talks` conversations were beyond the model's template and are plain text."""

    tokens: tuple[int, ...]
    n_plain_talks: int = 0

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what is read."""
        return hashlib.sha256(np.asarray(self.tokens, "<i4").tobytes()).hexdigest()[:16]


def to_tokens(
    pieces: Iterable[Piece], vocabulary: Vocabulary, template: ChatTemplate | None, *, parse_special: bool = False
) -> TokenStream:
    """Return the tokens of `pieces`, one after the other.

    Args:
        pieces: plain texts and conversations.
        vocabulary: of the model.
        template: of the model; None: it has none, conversations are read as plain text.
        parse_special: "<|im_start|>" and the like are special tokens in plain texts, too.
    """
    tokens: list[int] = []
    n_plain = 0
    for piece in pieces:
        rendered = _render(piece, template) if isinstance(piece, Talk) else None
        if rendered is not None:
            tokens += vocabulary.tokenize(rendered, parse_special=True)
            continue
        n_plain += isinstance(piece, Talk)
        text = piece.plain if isinstance(piece, Talk) else piece
        tokens += vocabulary.tokenize(text.rstrip("\n") + "\n\n", parse_special=parse_special)
    return TokenStream(tuple(tokens), n_plain)


def to_chunks(tokens: Sequence[int], chunk_tokens: int, begin_token: int | None) -> tuple[Chunk, ...]:
    """Cut a stream.

    Args:
        tokens: of the stream.
        chunk_tokens: length of a chunk.
        begin_token: that stands first in every chunk; None: the model does without.

    Raises:
        InvalidRequest: there are fewer than 16 tokens.
    """
    if len(tokens) < min(_LEAST_TOKENS, chunk_tokens):
        raise InvalidRequest(f"the text is {len(tokens)} tokens long, too short for statistics", "add text")
    starts = range(0, max(1, len(tokens) // chunk_tokens * chunk_tokens), chunk_tokens)
    return tuple(with_begin(tokens[start : start + chunk_tokens], begin_token) for start in starts)


def with_begin(tokens: Sequence[int], begin_token: int | None) -> Chunk:
    """Return a chunk that begins as the model wants it."""
    return tuple(tokens) if begin_token is None else (begin_token, *tokens[1:])


def _render(talk: Talk, template: ChatTemplate | None) -> str | None:
    """Return the conversation as the template writes it; None where it cannot."""
    if template is None:
        return None
    try:
        return template.render(talk.messages, tools=talk.tools or None, add_generation_prompt=False)
    except TemplateFailed:
        return None
