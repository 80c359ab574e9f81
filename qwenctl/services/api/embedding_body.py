"""The body of OpenAI's embeddings, and the answer to it."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.services.api.body_fields import read_choice, read_text
from qwenctl.services.api.chat_body import HARMLESS, read_fields
from qwenctl.services.api.completion_body import Prompt, read_prompts

MOST_INPUTS = 2048
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {"dimensions": ()}
KNOWN = frozenset({"input", "encoding_format"}) | HARMLESS | set(_UNSUPPORTED)


@dataclass(frozen=True, slots=True)
class EmbeddingBody:
    """What embeddings were asked with."""

    inputs: tuple[Prompt, ...]
    model: str | None = None
    as_base64: bool = False


def parse_embedding_body(value: Any, *, strict: bool = False) -> EmbeddingBody:
    """Return what `value`, parsed JSON, asks for.

    Raises:
        BadRequest: as `parse_chat_body`.
    """
    body = read_fields(value, KNOWN, _UNSUPPORTED, strict=strict)
    form = read_choice(body, "encoding_format", ("float", "base64"))
    return EmbeddingBody(read_prompts(body, "input", MOST_INPUTS), read_text(body, "model"), form == "base64")


def embedding_answer(
    vectors: Sequence[Sequence[float]], n_prompt_tokens: int, *, model: str, as_base64: bool
) -> dict[str, Any]:
    """Return the answer: one vector an input, as numbers or as base64 of little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_prompt_tokens, "total_tokens": n_prompt_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: Sequence[float]) -> str:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
