"""Key-value pairs: held against gguf-py, the reference for keys, types and meaning, and read by llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from quant.chat_templates import read_chat_templates
from quant.errors import CheckpointError, FileFormatError
from quant.gguf_write import GgufField, GgufValueType, plan_layout
from quant.hf_config import HfConfig, read_config
from quant.metadata import NORMALIZER_KEY, model_metadata
from quant.model_card import read_model_card
from quant.model_source import BaseModel, ModelSource, describe_source
from quant.rope_config import RopeScaling
from quant.tensor_names import map_tensors
from quant.tokenizer import read_tokenizer
from tests.quant.llama_vocabulary import llama_vocabulary
from tests.quant.true_shapes import TRUE_MODELS, tensor_infos, write_config
from tests.tiny_tokenizer import SPECIAL_TOKENS, write_tokenizer

SOURCE = ModelSource("Test", "1B")
CARD = """---
library_name: transformers
license: apache-2.0
license_link: https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/LICENSE
pipeline_tag: text-generation
base_model:
- Qwen/Qwen3-30B-A3B-Base
- https://huggingface.co/my-org/other-model
language:
- en
- no
tags: [chat, "moe"]
model-index:
- name: something
  results: 1
---
# A model
"""


def _folder(folder: Path, name: str = "Qwen3-30B-A3B", **changes: Any) -> Path:
    values = TRUE_MODELS[name] | {"vocab_size": 512, "bos_token_id": SPECIAL_TOKENS["<|endoftext|>"]} | changes
    write_config(folder, values)
    write_tokenizer(folder)
    return folder


def _metadata(folder: Path, source: ModelSource = SOURCE, config: HfConfig | None = None) -> dict[str, GgufField]:
    config = config or read_config(folder)
    return model_metadata(config, read_tokenizer(folder, config.n_vocab), read_chat_templates(folder), source)


def _as_pairs(writer: gguf.GGUFWriter) -> dict[str, tuple[GgufValueType, object]]:
    """Return what gguf-py would write: element type and value by key."""
    pairs: dict[str, tuple[GgufValueType, object]] = {}
    for key, entry in writer.kv_data[0].items():
        is_array = entry.type is gguf.GGUFValueType.ARRAY
        element = gguf.GGUFValueType.get_type(entry.value[0]) if is_array else entry.type
        pairs[key] = (GgufValueType(int(element)), [*entry.value] if is_array else entry.value)
    return pairs


def _plain(metadata: dict[str, GgufField]) -> dict[str, tuple[GgufValueType, object]]:
    return {key: (field.type, list(field.value) if field.is_array else field.value) for key, field in metadata.items()}  # type: ignore[arg-type]


def test_hyper_parameters_equal_what_gguf_py_writes(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    )
    writer = gguf.GGUFWriter(None, "qwen3moe")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_block_count(48)
    writer.add_context_length(40960)
    writer.add_embedding_length(2048)
    writer.add_feed_forward_length(6144)
    writer.add_head_count(32)
    writer.add_head_count_kv(4)
    writer.add_key_length(128)
    writer.add_value_length(128)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32768)
    writer.add_expert_count(128)
    writer.add_expert_used_count(8)
    writer.add_expert_feed_forward_length(768)
    expected = _as_pairs(writer)
    found = _plain(_metadata(folder))
    assert {key: found.get(key) for key in expected} == expected
    ours = {key for key in found if key.startswith(("qwen3moe.", "general."))} - set(expected)
    assert ours == {
        "general.name",
        "general.size_label",
        *(f"general.sampling.{k}" for k in ("temp", "top_k", "top_p")),
    }


def test_vocabulary_and_template_equal_what_gguf_py_writes(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    writer = gguf.GGUFWriter(None, "qwen3moe")
    gguf.SpecialVocab(folder, load_merges=True).add_to_gguf(writer, quiet=True)
    expected = _as_pairs(writer)
    del expected["general.architecture"]
    assert {"tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.chat_template"} <= set(expected)
    found = _plain(_metadata(folder))
    assert {key: found.get(key) for key in expected} == expected
    ours = {key for key in found if key.startswith("tokenizer.")} - set(expected)
    assert ours == {f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "add_eos_token")}
    assert found[NORMALIZER_KEY] == (GgufValueType.STRING, "nfc")
    assert found["tokenizer.ggml.token_type"][0] is GgufValueType.INT32


def test_origin_and_sampling_equal_what_gguf_py_writes(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "Qwen3-30B-A3B")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    config = read_config(folder)
    targets = map_tensors(config, tensor_infos(TRUE_MODELS["Qwen3-30B-A3B"] | {"vocab_size": 512}))
    writer = gguf.GGUFWriter(None, "qwen3moe")
    gguf.Metadata.load(None, folder, None, 30_500_000_000).set_gguf_meta_model(writer)
    expected = _as_pairs(writer)
    for key in ("general.basename", "general.architecture"):  # a part of the name, which we leave whole
        del expected[key]
    found = _plain(_metadata(folder, describe_source(folder, config, targets)))
    assert {key: found.get(key) for key in expected} == expected
    assert found["general.size_label"] == (GgufValueType.STRING, "30B-A3B")
    assert found["general.languages"] == (GgufValueType.STRING, ["en", "no"])
    assert found["general.tags"] == (GgufValueType.STRING, ["chat", "moe", "text-generation"])
    assert found["general.base_model.1.repo_url"][1] == "https://huggingface.co/my-org/other-model"


def test_llama_cpp_reads_the_special_ids(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(plan_layout(_metadata(_folder(tmp_path / "hf")), [], 4096).header)
    found = llama_vocabulary(path)
    end, start = SPECIAL_TOKENS["<|im_end|>"], SPECIAL_TOKENS["<|endoftext|>"]
    assert (found["n_tokens"], found["eos"], found["bos"], found["pad"]) == (512, end, start, start)
    assert set(found["ends"]) == {end, start}
    assert (found["add_bos"], found["add_eos"]) == (False, False)


def test_dense_models_say_nothing_of_experts_and_qwen2_nothing_of_head_sizes(tmp_path: Path) -> None:
    qwen2 = _metadata(_folder(tmp_path, "Qwen2.5-0.5B"))
    assert qwen2["general.architecture"].value == "qwen2"
    assert not [key for key in qwen2 if "expert" in key or "key_length" in key]
    assert not [key for key in qwen2 if "rope.scaling" in key]


def test_a_stated_attention_factor_of_yarn_is_written_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    config = replace(read_config(_folder(tmp_path)), rope_scaling=RopeScaling("yarn", 4.0, 32768, 1.0))
    value = _metadata(tmp_path, config=config)["qwen3moe.rope.scaling.attn_factor"].value
    assert value == pytest.approx(1 / 1.1386294)


def test_an_end_of_turn_that_llama_cpp_does_not_know_by_name_is_written_out(tmp_path: Path) -> None:
    think = SPECIAL_TOKENS["</think>"]
    folder = _folder(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [SPECIAL_TOKENS["<|im_end|>"], think]}))
    metadata = _metadata(folder)
    assert metadata["tokenizer.ggml.eot_token_id"].value == think
    assert "tokenizer.ggml.eom_token_id" not in metadata


def test_ids_of_the_configuration_serve_where_the_tokenizer_names_none(tmp_path: Path) -> None:
    folder = _folder(tmp_path, eos_token_id=SPECIAL_TOKENS["<|im_end|>"])
    (folder / "tokenizer_config.json").unlink()
    metadata = _metadata(folder)
    assert metadata["tokenizer.ggml.eos_token_id"].value == SPECIAL_TOKENS["<|im_end|>"]
    assert "tokenizer.chat_template" not in metadata


def test_a_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    (folder / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match="no token ends a text") as caught:
        _metadata(folder)
    assert caught.value.hint is not None


def test_named_templates(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    templates = [{"name": "tool use", "template": "T"}, {"name": "default", "template": "D"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": templates}))
    assert list(read_chat_templates(folder)) == ["default", "tool use"]
    metadata = _metadata(folder)
    assert metadata["tokenizer.chat_template"].value == "D"
    assert metadata["tokenizer.chat_template.tool_use"].value == "T"
    assert metadata["tokenizer.chat_templates"].value == ("tool_use",)


def test_a_template_file_wins_over_the_configuration(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert read_chat_templates(tmp_path) == {"default": "json"}
    (tmp_path / "chat_template.jinja").write_text("file")
    assert read_chat_templates(tmp_path) == {"default": "file"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R")
    assert read_chat_templates(tmp_path) == {"default": "file", "rag": "R"}


def test_template_files_are_bounded_text(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xff")
    with pytest.raises(FileFormatError, match="not UTF-8: byte 0xff at offset 0"):
        read_chat_templates(tmp_path)
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(FileFormatError, match="longer than the 1,048,576 bytes"):
        read_chat_templates(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileFormatError, match="not a regular file"):
        read_chat_templates(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# no front matter\n", {}),
        ("---\nlicense: mit  # a comment\n---\nlicense: not this\n", {"license": ("mit",)}),
        (
            "---\nlanguage: [en, 'no', ]\ntags:\n  - a\n  - \"b c\"\n---\n",
            {"language": ("en", "no"), "tags": ("a", "b c")},
        ),
        ("---\ndescription: |\n  several\n  lines\nlicense: mit\n---\n", {"license": ("mit",)}),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": ("mit",)}),
        ("---\nnever: closed\n", {"never": ("closed",)}),
    ],
)
def test_model_cards(text: str, expected: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_model_card(tmp_path) == expected


def test_names_and_sizes(tmp_path: Path) -> None:
    def described(folder: Path, model: str, **changes: Any) -> ModelSource:
        values = TRUE_MODELS[model] | changes
        config = read_config(write_config(folder, values))
        return describe_source(folder, config, map_tensors(config, tensor_infos(TRUE_MODELS[model])))

    plain = described(tmp_path / "my-finetune", "Qwen3-30B-A3B")
    assert (plain.name, plain.size_label, plain.repo_url) == ("My Finetune", "128x1.8B", None)
    wrong = described(tmp_path / "Other-70B", "Qwen3-0.6B")
    assert (wrong.name, wrong.size_label) == ("Other 70B", "596M")
    revision = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "0a1b2c"
    hub = described(revision, "Qwen3-0.6B")
    assert (hub.name, hub.organization, hub.size_label) == ("Qwen3 0.6B", "Qwen", "0.6B")
    assert hub.repo_url == "https://huggingface.co/Qwen/Qwen3-0.6B"
    named = described(tmp_path / "x", "Qwen3-0.6B", _name_or_path="Qwen/Qwen3-0.6B-Base")
    assert (named.name, named.repo_url) == ("Qwen3 0.6B Base", "https://huggingface.co/Qwen/Qwen3-0.6B-Base")
    local = described(tmp_path / "y", "Qwen3-0.6B", _name_or_path="/data/models/Qwen3")
    assert (local.name, local.repo_url) == ("Y", None)


def test_base_models_that_are_no_repositories(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nbase_model: [a b, 'https://example.org/x/y/z']\n---\n")
    values = TRUE_MODELS["Qwen3-0.6B"]
    config = read_config(write_config(tmp_path, values))
    found = describe_source(tmp_path, config, map_tensors(config, tensor_infos(values))).base_models
    assert found == (BaseModel("A B"), BaseModel("Z", None, "https://example.org/x/y/z"))
