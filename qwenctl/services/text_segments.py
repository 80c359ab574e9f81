"""Cut text where added tokens stand in it, and bring the rest to the form the tokenizer was trained on.

llama.cpp can look for added tokens by itself, but differs from transformers in two ways that this closes: it takes a
plain `</s>` in the vocabulary of Qwen for an added token because of its text, and it does not normalise. What lies
between added tokens goes to `llama_tokenize` with parse_special off. Knows nothing of llama.cpp's handles.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from quant.tokenizer import TokenType

_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class TextSegments:
    """The added tokens of one vocabulary.

    Args:
        tokens: text of every token by id, `tokenizer.ggml.tokens` of the file.
        token_types: their types, `tokenizer.ggml.token_type` of the file.
        normalizer: `qwenctl.tokenizer.normalizer` of the file; "nfc" or None.

    Raises:
        ValueError: another normalizer.
    """

    tokens: Sequence[str]
    token_types: Sequence[int]
    normalizer: str | None = None
    _ids: dict[str, int] = field(init=False, default_factory=dict)
    _any: re.Pattern[str] = field(init=False, default=_NEVER)
    _user_defined: re.Pattern[str] = field(init=False, default=_NEVER)

    def __post_init__(self) -> None:
        if self.normalizer not in (None, "nfc"):
            raise ValueError(f"the normalizer {self.normalizer!r} is not known; nfc is")
        # Plain integers: comparing numpy's with an enum's takes seconds for 150,000 tokens.
        control, user = int(TokenType.CONTROL), int(TokenType.USER_DEFINED)
        for token_id, kind in enumerate(map(int, self.token_types)):
            if kind in (control, user):
                self._ids[self.tokens[token_id]] = token_id
        only_user = [text for text, token_id in self._ids.items() if self.token_types[token_id] == user]
        object.__setattr__(self, "_any", _pattern(self._ids))
        object.__setattr__(self, "_user_defined", _pattern(only_user))

    def cut(self, text: str, *, parse_special: bool = True) -> Iterator[str | int]:
        """Yield the text between added tokens, normalised and never empty, and the ids of those tokens, in order.

        Args:
            text: what is to be tokenized.
            parse_special: whether control tokens (<|im_end|> …) count; user-defined ones (<think> …) always do.
        """
        end = 0
        for match in (self._any if parse_special else self._user_defined).finditer(text):
            if match.start() > end:
                yield self._normalized(text[end : match.start()])
            yield self._ids[match.group()]
            end = match.end()
        if end < len(text):
            yield self._normalized(text[end:])

    def _normalized(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.normalizer == "nfc" else text


def _pattern(texts: Sequence[str] | dict[str, int]) -> re.Pattern[str]:
    """Match the longest of `texts` at the leftmost place, as `tokenizers` does."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else _NEVER
