"""What the file says of its tokens counts, not what llama.cpp makes of their texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from qwenctl.services.engine import Engine, EngineOptions
from tests.tiny_gguf import TinyGguf


def test_tokens_of_the_demo_are_those_of_tokenizers(demo_folder: Path, demo_gguf: Path) -> None:
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(demo_folder / "tokenizer.json"))
    texts = (
        "<|im_start|>user\nhello </s> world<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "e\u0301 and <|im_end|>\u0338 stay apart",  # form C must not reach across an added token
        "<|im_start|><|im_start|>",
        "",
    )
    with Engine.open(demo_gguf, EngineOptions(n_ctx=256)) as engine:
        for text in texts:
            assert list(engine.tokenize(text)) == theirs.encode(text, add_special_tokens=False).ids, text
            assert engine.detokenize(engine.tokenize("plain text, ünïcode")) == "plain text, ünïcode"


def test_plain_text_in_the_vocabulary_does_not_end_the_turn(tmp_path: Path) -> None:
    """llama.cpp takes any token whose text is </s> for the end of a sentence; in Qwen's vocabulary it is HTML."""
    tiny = TinyGguf.of("qwen3")
    kind, (element_kind, tokens) = tiny.pairs["tokenizer.ggml.tokens"]
    tiny.pairs["tokenizer.ggml.tokens"] = (kind, (element_kind, [*tokens[:200], "</s>", *tokens[201:]]))
    with Engine.open(tiny.write(tmp_path / "model.gguf"), EngineOptions(n_ctx=256)) as engine:
        vocabulary = engine._model.vocabulary
        assert llama_cpp.llama_vocab_is_eog(vocabulary.handle, 200)
        assert not vocabulary.ends_generation(200)
        assert 200 not in engine.tokenize("a</s>b")


def test_pieces_that_come_again_are_not_tokenized_again(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(demo_gguf, EngineOptions(n_ctx=256)) as engine:
        n_calls, tokenize = 0, llama_cpp.llama_tokenize

        def counted(*arguments: Any) -> int:
            nonlocal n_calls
            n_calls += 1
            return int(tokenize(*arguments))

        monkeypatch.setattr(llama_cpp, "llama_tokenize", counted)
        texts = [f"<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWhat is {n}?<|im_end|>" for n in range(9)]
        first = [engine.tokenize(text) for text in texts]
        assert n_calls == 2 + 9  # what stands before the questions is the same
        assert [engine.tokenize(text) for text in texts] == first
        assert [engine.detokenize(tokens) for tokens in first] == [
            f"system\nBe short.\nuser\nWhat is {n}?" for n in range(9)
        ]
        assert n_calls == 2 + 9
        long = "word " * 4000
        assert engine.tokenize(long) == engine.tokenize(long)
        assert n_calls == 2 + 9 + 2  # too long to be kept
