"""Text becomes the same ids in llama.cpp, with our metadata, as in the `tokenizers` library: in every script.

The way is the engine's: text is cut at added tokens and brought to Unicode's form C between them, and llama.cpp gets
the rest. The `tokenizers` library knows the combining classes of an older Unicode than Python: those 98 marks are left
out.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from quant.gguf_read import read_gguf
from quant.gguf_write import plan_layout
from quant.hf_config import read_config
from quant.metadata import NORMALIZER_KEY, model_metadata
from quant.model_source import ModelSource
from quant.pre_tokenizers import PRE_TOKENIZERS
from quant.tokenizer import read_tokenizer
from qwenctl.services.text_segments import TextSegments
from tests.quant.llama_vocabulary import llama_encode, llama_vocabulary
from tests.quant.script_lines import SCRIPTS, generated_lines, human_sentences
from tests.quant.true_shapes import TRUE_MODELS, write_config


def _vocabulary_file(tokenizer_folder: Path, n_vocab: int, target: Path) -> Path:
    """Write a GGUF of metadata alone."""
    values = TRUE_MODELS["Qwen3-0.6B"] | {"vocab_size": n_vocab, "eos_token_id": 0}
    config = read_config(write_config(target / "config", values))
    metadata = model_metadata(config, read_tokenizer(tokenizer_folder, n_vocab), {}, ModelSource("test", "0K"))
    assert metadata[NORMALIZER_KEY].value == "nfc"
    path = target / "vocabulary.gguf"
    path.write_bytes(plan_layout(metadata, [], 32).header)
    return path


def _assert_parity(file: Path, reference: Tokenizer, lines: list[str]) -> None:
    lines = _without_newer_marks(reference, lines)
    expected = [encoding.ids for encoding in reference.encode_batch(lines, add_special_tokens=False)]
    found = _encode(file, reference, lines)
    differing = [(line, a, b) for line, a, b in zip(lines, found, expected, strict=True) if a != b]
    assert not differing, f"{len(differing)} of {len(lines)} lines: (text, llama.cpp, tokenizers) {differing[:3]}"


def _encode(file: Path, reference: Tokenizer, lines: list[str]) -> list[list[int]]:
    """Encode as the engine does: cut at added tokens, normalise between them, leave the rest to llama.cpp."""
    metadata = read_gguf(file).metadata
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    segments = TextSegments(tokens, types.tolist(), metadata[NORMALIZER_KEY])  # type: ignore[union-attr, arg-type]
    cut = [list(segments.cut(line)) for line in lines]
    texts = [part for parts in cut for part in parts if isinstance(part, str)]
    encoded = iter(llama_encode(file, texts, parse_special=False))
    return [
        [token for part in parts for token in (next(encoded) if isinstance(part, str) else [part])] for parts in cut
    ]


def _without_newer_marks(reference: Tokenizer, lines: list[str]) -> list[str]:
    """Return the lines without marks whose combining class `tokenizers` does not know; form C must then be Python's."""
    highest = "\u0345"  # of class 240: a mark that is known moves before it
    marks = {mark for line in lines for mark in line if 0 < unicodedata.combining(mark) < 240}
    newer = {ord(mark): None for mark in marks if reference.normalizer.normalize_str(highest + mark)[0] == highest}
    kept = [line.translate(newer) for line in lines]
    assert [unicodedata.normalize("NFC", line) for line in kept] == list(map(reference.normalizer.normalize_str, kept))
    return kept


def _added_texts(folder: Path) -> list[str]:
    return [token["content"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]]


@pytest.fixture(scope="module")
def qwen3_vocabulary(qwen3_tokenizer_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a GGUF that holds the real Qwen3 vocabulary and no weights."""
    return _vocabulary_file(qwen3_tokenizer_json.parent, 151936, tmp_path_factory.mktemp("qwen3"))


@pytest.mark.needs_qwen3_tokenizer
def test_real_qwen3_ids_equal_those_of_tokenizers(qwen3_tokenizer_json: Path, qwen3_vocabulary: Path) -> None:
    sentences = human_sentences()
    lines = [text for _, _, text in sentences] + generated_lines(48, _added_texts(qwen3_tokenizer_json.parent))
    assert len(lines) >= 2000
    assert len(SCRIPTS) >= 40
    assert len({script for _, script, _ in sentences}) >= 30
    _assert_parity(qwen3_vocabulary, Tokenizer.from_file(str(qwen3_tokenizer_json)), lines)


@pytest.mark.needs_qwen3_tokenizer
def test_real_qwen3_vocabulary_in_llama_cpp(qwen3_vocabulary: Path) -> None:
    found = llama_vocabulary(qwen3_vocabulary)
    assert (found["n_tokens"], found["eos"], found["pad"]) == (151936, 151645, 151643)
    assert (found["add_bos"], found["add_eos"]) == (False, False)
    assert {151643, 151645} <= set(found["ends"])


@pytest.mark.needs_qwen3_tokenizer
@pytest.mark.slow
def test_every_character_of_real_qwen3(qwen3_tokenizer_json: Path, qwen3_vocabulary: Path) -> None:
    """Alone, doubled, and between letters, digits and full stops; of the long Han and Hangul ranges, every 20th."""
    lines = []
    for code in range(0x110000):
        character = chr(code)
        rare = 0x3400 <= code < 0xD7A4 or 0x17000 <= code < 0x19000 or code >= 0x20000
        if unicodedata.category(character) not in ("Cn", "Cs", "Co") and not (rare and code % 20):
            lines.append(f"a{character}b {character}{character} 1{character}2 .{character}. \n{character}")
    _assert_parity(qwen3_vocabulary, Tokenizer.from_file(str(qwen3_tokenizer_json)), lines)


def test_demo_ids_equal_those_of_tokenizers(demo_folder: Path, tmp_path: Path) -> None:
    lines = [text for _, _, text in human_sentences()] + generated_lines(6, _added_texts(demo_folder))
    file = _vocabulary_file(demo_folder, 4096, tmp_path)
    _assert_parity(file, Tokenizer.from_file(str(demo_folder / "tokenizer.json")), lines)


def test_what_llama_cpp_alone_gets_wrong(tmp_path: Path) -> None:
    """Why the engine cuts and normalises: no form C, and `</s>` taken for a control token by its text alone."""
    folder = _train(tmp_path, "qwen2", ["</s>"])
    file = _vocabulary_file(folder, 400, tmp_path)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    in_text = llama_encode(file, [composed, decomposed, "</s>"], parse_special=False)
    assert in_text[0] == reference.encode(composed).ids == reference.encode(decomposed).ids != in_text[1]
    assert in_text[2] == reference.encode("</s>").ids
    _assert_parity(file, reference, [decomposed, "<s>x</s>", "a<|im_end|>\u0338b", "e<think>\u0301"])
    assert llama_encode(file, ["</s>"], parse_special=True)[0] == [reference.token_to_id("</s>")]


@pytest.mark.parametrize("name", [known.name for known in PRE_TOKENIZERS])
def test_each_known_pre_tokenizer_splits_as_llama_cpps_of_that_name(name: str, tmp_path: Path) -> None:
    folder = _train(tmp_path, name, [])
    lines = [text for _, _, text in human_sentences()] + generated_lines(4, ["<|im_end|>", "<think>"])
    file = _vocabulary_file(folder, 2048, tmp_path)
    _assert_parity(file, Tokenizer.from_file(str(folder / "tokenizer.json")), lines)


def _train(target: Path, name: str, extra_words: list[str]) -> Path:
    """Train a byte-level BPE of at most 2,000 tokens with the pre-tokenizer of that name; return its folder."""
    known = next(entry for entry in PRE_TOKENIZERS if entry.name == name)
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = Tokenizer(models.BPE(ignore_merges=known.ignore_merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(known.pattern), behavior="isolated"), pre_tokenizers.ByteLevel(**byte_level)]
    )
    tokenizer.decoder = decoders.ByteLevel(**byte_level)
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = 260 if extra_words else 2000
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text for _, _, text in human_sentences()), trainer)
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens(["<think>"])
    whole = json.loads(tokenizer.to_str())
    for word in extra_words:  # tokens that no merge leads to
        whole["model"]["vocab"][word] = len(whole["model"]["vocab"])
        for added in whole["added_tokens"]:
            added["id"] += 1
    folder = target / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder
