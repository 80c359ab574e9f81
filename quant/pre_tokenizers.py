"""Which of llama.cpp's pre-tokenizers splits text as a tokenizer.json does: a table from its Split pattern to the name.

llama.cpp knows pre-tokenizers by name only (`tokenizer.ggml.pre`); the wrong one gives wrong ids without a word.
Source: llama-vocab.cpp of llama.cpp 0c1e57098, which quotes the patterns of tokenizer.json beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from quant.errors import CheckpointError
from quant.json_fields import JsonFields
from quant.shown import shown


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One that llama.cpp has: its name there and its pattern in tokenizer.json."""

    name: str
    pattern: str
    ignore_merges: bool  # llama.cpp ties this to the name: whole words of the vocabulary are taken before merges apply


PRE_TOKENIZERS = (
    PreTokenizer(
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ignore_merges=False,
    ),
    PreTokenizer(
        "qwen35",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ignore_merges=False,
    ),
    PreTokenizer(
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ignore_merges=True,
    ),
)


def pre_tokenizer_name(tokenizer: JsonFields, *, ignore_merges: bool) -> str:
    """Return llama.cpp's name for the pre-tokenizer of a tokenizer.json.

    Raises:
        CheckpointError: one that llama.cpp does not have, or not with this `ignore_merges`; the pattern is named.
    """
    pattern = _split_pattern(tokenizer)
    for known in PRE_TOKENIZERS:
        if (known.pattern, known.ignore_merges) == (pattern, ignore_merges):
            return known.name
    detail = (
        f" with ignore_merges {str(ignore_merges).lower()}" if any(k.pattern == pattern for k in PRE_TOKENIZERS) else ""
    )
    raise CheckpointError(
        f"{tokenizer.path}: the pre-tokenizer {shown(pattern)}{detail} is not known",
        f"known are those of {', '.join(known.name for known in PRE_TOKENIZERS)}",
    )


def _split_pattern(tokenizer: JsonFields) -> str:
    """Return the pattern of a pre-tokenizer that is one isolating Split, then ByteLevel without a split of its own."""
    pre = tokenizer.child("pre_tokenizer")
    steps = pre.children("pretokenizers") or [pre]
    kinds = [step.text("type", "none") for step in steps]
    if kinds != ["Split", "ByteLevel"]:
        raise CheckpointError(
            f"{tokenizer.path}: the pre-tokenizer is {', then '.join(kinds)}; Split, then ByteLevel can be converted"
        )
    split, byte_level = steps
    if split.text("behavior") != "Isolated" or split.boolean("invert", False):
        raise CheckpointError(f"{tokenizer.path}: the Split of the pre-tokenizer does not isolate what it matches")
    if byte_level.boolean("add_prefix_space", True) or byte_level.boolean("use_regex", True):
        raise CheckpointError(f"{tokenizer.path}: the ByteLevel of the pre-tokenizer adds a space or splits again")
    return split.child("pattern").text("Regex")
