"""What the file says of its tokens counts, not what llama.cpp makes of their texts."""

from __future__ import annotations

from pathlib import Path

import llama_cpp

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
