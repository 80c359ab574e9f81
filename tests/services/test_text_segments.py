"""Text cut at added tokens; tests/quant/test_tokenizer_parity.py holds the ids that result against transformers."""

from __future__ import annotations

import pytest

from qwenctl.services.text_segments import TextSegments

TOKENS = ["a", "b", "</s>", "<|end|>", "<think>", "<think>!", "[PAD6]"]
TYPES = [1, 1, 1, 3, 4, 4, 5]


def _cut(text: str, *, normalizer: str | None = "nfc", parse_special: bool = True) -> list[str | int]:
    return list(TextSegments(TOKENS, TYPES, normalizer).cut(text, parse_special=parse_special))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("ab", ["ab"]),
        ("<|end|>", [3]),
        ("a<|end|><|end|>b", ["a", 3, 3, "b"]),
        ("<think>!a", [5, "a"]),  # the longest
        ("<|end|", ["<|end|"]),
        ("</s>a[PAD6]", ["</s>a[PAD6]"]),  # neither is an added token
    ],
)
def test_cut(text: str, parts: list[str | int]) -> None:
    assert _cut(text) == parts


def test_without_special_parsing_only_user_defined_tokens_count() -> None:
    assert _cut("<think>a<|end|>", parse_special=False) == [4, "a<|end|>"]


def test_text_is_normalised_between_tokens_and_never_across_them() -> None:
    assert _cut("e\u0301<|end|>\u0338") == ["\u00e9", 3, "\u0338"]
    assert _cut("e\u0301", normalizer=None) == ["e\u0301"]


def test_a_vocabulary_without_added_tokens() -> None:
    assert list(TextSegments(["a"], [1]).cut("aa")) == ["aa"]


def test_an_unknown_normalizer() -> None:
    with pytest.raises(ValueError, match="'nfkc' is not known"):
        TextSegments([], [], "nfkc")
