"""A checkpoint's byte-level BPE: tokenizer.json and tokenizer_config.json, in the terms of llama.cpp's vocabulary.

Knows nothing of GGUF keys; metadata.py writes them. What of tokenizer.json has no counterpart in llama.cpp and changes
ids is refused. `lstrip`, `rstrip` and `single_word` of added tokens are let pass: they touch spaces beside them only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal

from quant.errors import CheckpointError
from quant.json_fields import JsonFields
from quant.json_file import read_json_object
from quant.pre_tokenizers import pre_tokenizer_name

_MAX_TOKENIZER_BYTES = 256 << 20  # the largest known, with merges as pairs, has 33 MB
_MAX_CONFIG_BYTES = 16 << 20
_SPECIAL_ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")


class TokenType(IntEnum):
    """`enum llama_token_type`."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The vocabulary by id, and how text becomes ids.

    `tokens` has one entry per row of the embeddings. Normal tokens are written in the byte-level alphabet, added ones
    as they stand in text. `merges` are "left right" in order of rank.
    """

    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    pre: str  # llama.cpp's name of the pre-tokenizer
    normalizer: Literal["nfc"] | None  # applied by transformers before anything else, by llama.cpp not at all
    special_ids: Mapping[str, int] = field(default_factory=dict)  # by role: bos, eos, unk, sep, pad, mask
    add_bos: bool = False
    add_eos: bool = False


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of the checkpoint in `folder`, padded to `vocab_size` with `[PADn]` tokens.

    Raises:
        JsonFileError: a file that is missing or malformed.
        CheckpointError: another kind of tokenizer than byte-level BPE, one that llama.cpp would run differently, or ids
            that collide or exceed `vocab_size`.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} holds no tokenizer.json", "load its tokenizer with transformers and save it again"
        )
    whole = JsonFields(path, read_json_object(path, _MAX_TOKENIZER_BYTES))
    config_path = folder / "tokenizer_config.json"
    config = JsonFields(config_path, read_json_object(config_path, _MAX_CONFIG_BYTES) if config_path.exists() else {})
    model = whole.child("model")
    _refuse_other_kinds(path, model)
    added = _added_tokens(whole)
    tokens, token_types = _vocabulary(path, model, added, vocab_size)
    added_ids = {token.text: token.token_id for token in added}
    before, after = _tokens_around(whole, config, added_ids)
    around = {role: token_id for role, token_id in (("bos", before), ("eos", after)) if token_id is not None}
    return Tokenizer(
        tokens=tokens,
        token_types=token_types,
        merges=_merges(path, model),
        pre=pre_tokenizer_name(whole, ignore_merges=model.boolean("ignore_merges", False)),
        normalizer=_normalizer(whole),
        special_ids=_special_ids(config, added_ids) | around,
        add_bos=before is not None,
        add_eos=after is not None,
    )


@dataclass(frozen=True, slots=True)
class _AddedToken:
    token_id: int
    text: str
    is_control: bool


def _refuse_other_kinds(path: Path, model: JsonFields) -> None:
    kind = model.text("type", "BPE")
    if kind != "BPE":
        raise CheckpointError(f"{path}: a {kind} tokenizer; only byte-level BPE can be converted")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.text(name, ""):
            raise CheckpointError(f"{path}: BPE with a {name}, which llama.cpp does not know")
    for name in ("byte_fallback", "fuse_unk"):
        if model.boolean(name, False):
            raise CheckpointError(f"{path}: BPE with {name}; only byte-level BPE can be converted")


def _added_tokens(whole: JsonFields) -> list[_AddedToken]:
    found = []
    for entry in whole.children("added_tokens"):
        text = entry.text("content")
        looks_special = text.startswith("<|") and text.endswith("|>")
        is_control = entry.boolean("special", False) or looks_special
        found.append(_AddedToken(entry.integer("id", 0, (1 << 31) - 1), text, is_control))
    return found


def _vocabulary(
    path: Path, model: JsonFields, added: list[_AddedToken], vocab_size: int
) -> tuple[list[str], list[int]]:
    """Return text and type by id. Two tokens of the same text would abort llama.cpp, two of the same id lose one."""
    by_id: dict[int, tuple[str, int]] = {}
    ids: dict[str, int] = {}
    normal = model.raw("vocab")
    if not isinstance(normal, dict) or not all(type(token_id) is int for token_id in normal.values()):
        raise model.refuse("vocab", "must be an object of integers")
    for text, token_id in normal.items():
        _place(path, by_id, ids, (token_id, text, TokenType.NORMAL), vocab_size)
    for token in added:
        if ids.get(token.text) == token.token_id:  # an added token may stand in the vocabulary too
            del by_id[token.token_id], ids[token.text]
        kind = TokenType.CONTROL if token.is_control else TokenType.USER_DEFINED
        _place(path, by_id, ids, (token.token_id, token.text, kind), vocab_size)
    for token_id in range(vocab_size):
        if token_id not in by_id:
            _place(path, by_id, ids, (token_id, f"[PAD{token_id}]", TokenType.UNUSED), vocab_size)
    ordered = [by_id[token_id] for token_id in range(vocab_size)]
    return [text for text, _ in ordered], [int(kind) for _, kind in ordered]


def _place(
    path: Path, by_id: dict[int, tuple[str, int]], ids: dict[str, int], token: tuple[int, str, int], vocab_size: int
) -> None:
    token_id, text, kind = token
    if not 0 <= token_id < vocab_size:
        raise CheckpointError(
            f"{path}: token {text!r} has the id {token_id}, but the model has {vocab_size} rows of embeddings"
        )
    if not text:
        raise CheckpointError(f"{path}: the token with the id {token_id} is empty")
    if token_id in by_id:
        raise CheckpointError(f"{path}: the id {token_id} stands for {by_id[token_id][0]!r} and for {text!r}")
    if text in ids:
        raise CheckpointError(f"{path}: the token {text!r} has the ids {ids[text]} and {token_id}")
    by_id[token_id] = (text, kind)
    ids[text] = token_id


def _merges(path: Path, model: JsonFields) -> list[str]:
    """Return the merges as "left right". Spaces inside a piece become Ġ, as llama.cpp's own converter writes them."""
    merges = model.raw("merges")
    if not isinstance(merges, list):
        raise model.refuse("merges", "must be an array")
    found = []
    for rank, merge in enumerate(merges):
        pieces = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pieces, list) or [type(piece) for piece in pieces] != [str, str] or "" in pieces:
            raise CheckpointError(f"{path}: merge {rank} is not a pair of pieces")
        left, right = pieces
        found.append(f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}")
    return found


def _normalizer(whole: JsonFields) -> Literal["nfc"] | None:
    normalizer = whole.child("normalizer")
    kinds = [normalizer.text("type")] if normalizer.has("type") else []
    if kinds == ["Sequence"]:
        kinds = [entry.text("type") for entry in normalizer.children("normalizers")]
    if kinds == ["NFC"]:
        return "nfc"
    if kinds:
        raise CheckpointError(f"{whole.path}: the normalizer {', '.join(kinds)} is not known; NFC is")
    return None


def _special_ids(config: JsonFields, added_ids: Mapping[str, int]) -> dict[str, int]:
    """Return ids by role, of the roles whose token tokenizer_config.json names and tokenizer.json has."""
    found = {}
    for role in _SPECIAL_ROLES:
        entry = config.raw(f"{role}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text in added_ids:
            found[role] = added_ids[text]
    return found


def _tokens_around(
    whole: JsonFields, config: JsonFields, added_ids: Mapping[str, int]
) -> tuple[int | None, int | None]:
    """Return the ids put before and after every text. A post-processor decides; without one, tokenizer_config.json."""
    if not whole.has("post_processor"):
        ids = _special_ids(config, added_ids)
        before, after = (
            ids.get(role) if config.boolean(f"add_{role}_token", False) else None for role in ("bos", "eos")
        )
        return before, after
    processor = whole.child("post_processor")
    steps = processor.children("processors") or [processor]
    templates = [step for step in steps if step.text("type") == "TemplateProcessing"]
    if not templates:
        return None, None
    parts = templates[0].children("single")
    first, last = (_special_id(part, added_ids) for part in (parts[:1], parts[-1:]))
    return first, last


def _special_id(parts: list[JsonFields], added_ids: Mapping[str, int]) -> int | None:
    if not parts or not parts[0].has("SpecialToken"):
        return None
    text = parts[0].child("SpecialToken").text("id")
    if text not in added_ids:
        raise parts[0].refuse("SpecialToken", f"names {text!r}, which is no added token")
    return added_ids[text]
