"""tokenizer.json and tokenizer_config.json: vocabulary, padding, types, merges, special ids, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quant.errors import CheckpointError, JsonFileError
from quant.tokenizer import Tokenizer, TokenType, read_tokenizer
from tests.tiny_tokenizer import SPECIAL_TOKENS, tokenizer_json

N_VOCAB = 300


def _read(
    folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, config: dict[str, Any] | None = None
) -> Tokenizer:
    """Read the tiny tokenizer (256 bytes, 10 merges, 5 added tokens) after `change` was applied to it."""
    whole: dict[str, Any] = json.loads(json.dumps(tokenizer_json()))
    change(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return read_tokenizer(folder, N_VOCAB)


def test_vocabulary_types_and_padding(tmp_path: Path) -> None:
    tokenizer = _read(tmp_path)
    assert len(tokenizer.tokens) == len(tokenizer.token_types) == N_VOCAB
    assert tokenizer.tokens[0] == "!"
    assert tokenizer.tokens[258] == "Ġthe"
    first = SPECIAL_TOKENS["<|endoftext|>"]
    assert tokenizer.tokens[first : first + 6] == [*SPECIAL_TOKENS, f"[PAD{first + 5}]"]
    control, user, unused = TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED
    assert tokenizer.token_types[first - 1 : first + 6] == [TokenType.NORMAL, *[control] * 3, user, user, unused]
    assert (tokenizer.pre, tokenizer.normalizer) == ("qwen2", "nfc")


def test_a_gap_in_the_ids_is_padded(tmp_path: Path) -> None:
    def move(whole: dict[str, Any]) -> None:
        whole["added_tokens"][-1]["id"] = 280

    tokenizer = _read(tmp_path, move)
    assert tokenizer.tokens[270:272] == ["[PAD270]", "[PAD271]"]
    assert tokenizer.tokens[280] == "</think>"


def test_tokens_between_bars_are_control_even_if_not_marked_special(tmp_path: Path) -> None:
    def change(whole: dict[str, Any]) -> None:
        whole["added_tokens"][-1] |= {"content": "<|file_sep|>", "special": False}

    assert _read(tmp_path, change).token_types[SPECIAL_TOKENS["</think>"]] == TokenType.CONTROL


def test_an_added_token_may_stand_in_the_vocabulary_too(tmp_path: Path) -> None:
    def add(whole: dict[str, Any]) -> None:
        whole["model"]["vocab"]["<|endoftext|>"] = SPECIAL_TOKENS["<|endoftext|>"]

    tokenizer = _read(tmp_path, add)
    assert tokenizer.token_types[SPECIAL_TOKENS["<|endoftext|>"]] == TokenType.CONTROL


def test_merges_as_strings_and_as_pairs(tmp_path: Path) -> None:
    def as_pairs(whole: dict[str, Any]) -> None:
        whole["model"]["merges"] = [merge.split(" ") for merge in whole["model"]["merges"]] + [["a b", "c"]]

    assert _read(tmp_path).merges[:3] == ["Ġ t", "h e", "Ġt he"]
    assert _read(tmp_path, as_pairs).merges == [*_read(tmp_path).merges, "aĠb c"]


def test_special_ids_come_from_the_configuration(tmp_path: Path) -> None:
    config = {
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<|endoftext|>", "lstrip": False},
        "unk_token": None,
        "mask_token": "not there",
        "add_bos_token": True,
        "bos_token": "<|endoftext|>",
    }
    tokenizer = _read(tmp_path, config=config)
    end, start = SPECIAL_TOKENS["<|im_end|>"], SPECIAL_TOKENS["<|endoftext|>"]
    assert tokenizer.special_ids == {"bos": start, "eos": end, "pad": start}
    assert (tokenizer.add_bos, tokenizer.add_eos) == (False, False)  # the ByteLevel post-processor adds nothing


def test_without_a_post_processor_the_configuration_tells_what_is_added(tmp_path: Path) -> None:
    config = {"add_bos_token": True, "bos_token": "<|im_start|>", "add_eos_token": True}
    tokenizer = _read(tmp_path, lambda whole: whole.pop("post_processor"), config)
    assert (tokenizer.add_bos, tokenizer.add_eos) == (True, False)  # no eos token is named


def test_a_template_post_processor_adds_its_tokens(tmp_path: Path) -> None:
    special = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [special, {"Sequence": {"id": "A", "type_id": 0}}]}

    def change(whole: dict[str, Any]) -> None:
        whole["post_processor"] = {"type": "Sequence", "processors": [whole["post_processor"], template]}

    tokenizer = _read(tmp_path, change)
    assert tokenizer.special_ids["bos"] == SPECIAL_TOKENS["<|im_start|>"]
    assert (tokenizer.add_bos, tokenizer.add_eos) == (True, False)


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(whole: Any) -> None:
        for key in path[:-1]:
            whole = whole[key]
        whole[path[-1]] = value

    return change


_SPLIT = ("pre_tokenizer", "pretokenizers", 0)
_BYTE_LEVEL = ("pre_tokenizer", "pretokenizers", 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("model", "type", value="Unigram"), "a Unigram tokenizer"),
        (_set("model", "byte_fallback", value=True), "byte_fallback"),
        (_set("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
        (_set("model", "merges", 0, value="no-space"), "merge 0 is not a pair"),
        (_set("model", "merges", 3, value=["a", "b", "c"]), "merge 3 is not a pair"),
        (_set("model", "vocab", "!!", value=0), "the id 0 stands for '!' and for '!!'"),
        (_set("model", "vocab", "<think>", value=290), "'<think>' has the ids 290 and 269"),
        (_set("model", "vocab", "[PAD271]", value=290), "'[PAD271]' has the ids 290 and 271"),
        (_set("model", "vocab", "", value=290), "id 290 is empty"),
        (_set("model", "vocab", "x y", value=300), "has the id 300, but the model has 300 rows"),
        (_set("normalizer", value={"type": "NFKC"}), "normalizer NFKC"),
        (
            _set("normalizer", value={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}),
            "NFC, Strip",
        ),
        (_set("pre_tokenizer", value={"type": "Metaspace"}), "the pre-tokenizer is Metaspace"),
        (_set("pre_tokenizer", value=None), "the pre-tokenizer is none"),
        (_set(*_SPLIT, "pattern", "Regex", value=r"\w+"), r"the pre-tokenizer '\\w+' is not known"),
        (_set(*_SPLIT, "behavior", value="Removed"), "does not isolate"),
        (_set(*_BYTE_LEVEL, "use_regex", value=True), "splits again"),
        (_set("model", "ignore_merges", value=True), "with ignore_merges true is not known"),
    ],
)
def test_what_llama_cpp_would_tokenize_otherwise_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        _read(tmp_path, change)
    assert said in caught.value.message
    assert "tokenizer.json" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("model", "vocab", value=["a"]), "model.vocab must be an object of integers"),
        (_set("model", "vocab", "a", value="1"), "model.vocab must be an object of integers"),
        (_set("model", "merges", value={}), "model.merges must be an array"),
        (_set("added_tokens", 0, "id", value=-1), "added_tokens[0].id must lie between"),
        (_set("added_tokens", value=[1]), "added_tokens must be an array of objects"),
        (_set("model", value="BPE"), "model must be an object"),
    ],
)
def test_malformed_files(change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path) -> None:
    with pytest.raises(JsonFileError) as caught:
        _read(tmp_path, change)
    assert said in caught.value.message


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        read_tokenizer(tmp_path, 10)


def test_an_empty_sequence_of_normalizers_is_none(tmp_path: Path) -> None:
    assert _read(tmp_path, _set("normalizer", value={"type": "Sequence", "normalizers": []})).normalizer is None
    assert _read(tmp_path, _set("normalizer", value=None)).normalizer is None
