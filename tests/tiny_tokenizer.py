"""A byte-level BPE with Qwen's pre-tokenizer, 256 bytes and a handful of merges, as Hugging Face files.

For tests that need a tokenizer in a checkpoint, not for tests of tokenization itself: the demo's and the real Qwen3's
serve those. Ids: 0-255 the bytes in GPT-2's order, then the merges' results, then the special tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

# The split of Qwen2 and Qwen3, from their tokenizer.json.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MERGES = (
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("Ġ", "a"),
    ("e", "r"),
    ("o", "n"),
    ("in", "g"),
    ("Ã", "¤"),
    ("Ċ", "Ċ"),
)

_FIRST_SPECIAL = 256 + len(MERGES)
SPECIAL_TOKENS = {
    token: _FIRST_SPECIAL + i
    for i, token in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"))
}

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}"
    "{%- endif -%}"
)


def byte_letters() -> dict[int, str]:
    """Return the printable letter that stands for each byte in byte-level BPE (GPT-2's table), in GPT-2's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {value: chr(value) for value in printable}
    others = [value for value in range(256) if value not in letters]
    return letters | {value: chr(256 + i) for i, value in enumerate(others)}


def tokenizer_json() -> dict[str, object]:
    """Return tokenizer.json as the `tokenizers` library reads it."""
    vocabulary = {letter: token for token, letter in enumerate(byte_letters().values())}
    vocabulary |= {left + right: 256 + i for i, (left, right) in enumerate(MERGES)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token.startswith("<|"),
        }
        for token, token_id in SPECIAL_TOKENS.items()
    ]
    split = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [f"{left} {right}" for left, right in MERGES],
        },
    }


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json with the chat template, and generation_config.json."""
    config = {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 1024,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    end_of_text, end_of_turn = SPECIAL_TOKENS["<|endoftext|>"], SPECIAL_TOKENS["<|im_end|>"]
    generation = {
        "bos_token_id": end_of_text,
        "do_sample": True,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }
    for name, content in (
        ("tokenizer.json", tokenizer_json()),
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
