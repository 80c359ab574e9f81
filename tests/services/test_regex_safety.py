"""Long texts before pre-tokenizers that would overflow the stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.regex_safety import LONGEST_CHARACTERS, safe_pieces
from tests.tiny_gguf import STRING, TinyGguf


@given(st.lists(st.sampled_from(["word", " ", "!", "漢", "\n", "x" * 3000, " " * 5000]), max_size=12).map("".join))
def test_pieces_are_the_text_and_short(text: str) -> None:
    pieces = list(safe_pieces(text, "tekken"))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= LONGEST_CHARACTERS
    assert list(safe_pieces(text, "qwen2")) == [text]


def test_pieces_end_between_words() -> None:
    pieces = list(safe_pieces("some words " * 2000, None))
    assert all(piece.startswith(" ") and piece[1].isalpha() for piece in pieces[1:])


@pytest.mark.parametrize("pre_tokenizer", ["tekken", "deepseek-v3", "default"])
def test_a_long_word_does_not_end_the_process(pre_tokenizer: str, tmp_path: Path) -> None:
    tiny = TinyGguf.of("qwen3")
    tiny.pairs["tokenizer.ggml.pre"] = (STRING, pre_tokenizer)
    with Engine.open(tiny.write(tmp_path / "model.gguf"), EngineOptions(n_ctx=256, n_threads=1)) as engine:
        for character in "a!":
            assert len(engine.tokenize(character * 100_000)) == 100_000
        text = "the end of one word, " * 1000
        assert engine.detokenize(engine.tokenize(text)) == text
