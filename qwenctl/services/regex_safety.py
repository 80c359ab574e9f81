"""Text in pieces that llama.cpp's pre-tokenizers survive.

Some pre-tokenizers are programs in llama.cpp, others are regular expressions for std::regex, which recurses once a
character: one word of 40,000 letters or exclamation marks overflows the stack and ends the process (tried with
llama.cpp 0c1e57098 and each name below on 200,000 characters). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

# tokenizer.ggml.pre of the families that llama.cpp splits without std::regex, or with nothing unbounded in it.
_PROGRAMS = frozenset(
    {
        "qwen2",
        "qwen35",
        "deepseek-r1-qwen",
        "gpt-2",
        "llama-bpe",
        "llama3",
        "llama-v3",
        "smollm",
        "command-r",
        "stablelm2",
        "chatglm-bpe",
        "hunyuan",
    }
)
LONGEST_CHARACTERS = 4000


def safe_pieces(text: str, pre_tokenizer: str | None) -> Iterator[str]:
    """Yield `text` in pieces that can be tokenized one by one: all of it, unless std::regex would see it.

    Pieces end before a single space between two words, where every such expression ends a word; only a text without
    one in 4000 characters is cut elsewhere, and may get other tokens there.
    """
    if pre_tokenizer in _PROGRAMS:
        yield text
        return
    begin = 0
    while len(text) - begin > LONGEST_CHARACTERS:
        end = _last_break(text, begin + LONGEST_CHARACTERS // 2, begin + LONGEST_CHARACTERS)
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _last_break(text: str, low: int, high: int) -> int:
    """Return the last index up to `high` at which a space stands between two letters, or `high`."""
    for index in range(high, low, -1):
        if text[index] == " " and text[index - 1].isalpha() and text[index + 1 : index + 2].isalpha():
            return index
    return high
