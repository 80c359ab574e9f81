"""Which files of a repository a type means, on listings as they are on the hub."""

from __future__ import annotations

import pytest

from qwenctl.errors import ModelNotFound, QwenctlError
from qwenctl.services.hub.gguf_choice import choose_model, find_models, has_quant, offered, quant_of
from qwenctl.services.hub.listing import Repository, is_pickle, listed_file

COMMIT = "0" * 40


def listing(*paths, n_bytes=10):
    return [
        listed_file("https://hub", "u/r", COMMIT, path, n_bytes=n_bytes, sha256=None, git_oid=None) for path in paths
    ]


SPLIT = [f"Q4_K_M/Qwen3-235B-A22B-Q4_K_M-{number:05}-of-00005.gguf" for number in range(1, 6)]
UNSLOTH = listing(
    ".gitattributes",
    "README.md",
    "mmproj-F16.gguf",
    "imatrix_unsloth.gguf",
    "Qwen3.5-9B-UD-Q4_K_XL.gguf",
    "Qwen3.5-9B-IQ4_NL.gguf",
    "Qwen3.5-9B-Q8_0.gguf",
    "BF16/Qwen3.5-9B-BF16-00001-of-00002.gguf",
    "BF16/Qwen3.5-9B-BF16-00002-of-00002.gguf",
    *SPLIT,
)


@pytest.mark.parametrize(
    ("stem", "quant"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q4_k_m", "Q4_K_M"),
        ("Qwen3-30B-A3B-UD-IQ2_XXS", "UD-IQ2_XXS"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("model.Q6_K", "Q6_K"),
        ("model-IQ4_XS-imat", "IQ4_XS"),
        ("model-fp16", "F16"),
        ("BF16/model-BF16", "BF16"),
        ("Q8_0/model", "Q8_0"),
        ("model-MXFP4_MOE", "MXFP4_MOE"),
        ("Qwen3-8B-Q2_K_L", "Q2_K_L"),
        ("model-Q4_0_4_4", "Q4_0_4_4"),
        ("Qwen3-8B", None),
        ("Q8-wonder", None),
    ],
)
def test_types_in_file_names(stem, quant):
    assert quant_of(stem) == quant


def test_a_split_set_is_one_model_and_helpers_are_none():
    models = {model.quant: model for model in find_models(UNSLOTH)}
    assert set(models) == {"UD-Q4_K_XL", "IQ4_NL", "Q8_0", "BF16", "Q4_K_M"}
    assert [file.path for file in models["Q4_K_M"].files] == SPLIT
    assert models["BF16"].n_bytes == 20


@pytest.mark.parametrize(
    ("quant", "n_files", "chosen"),
    [
        ("q4_k_m", 5, "Q4_K_M"),
        ("Q8_0", 1, "Q8_0"),
        ("q4_k_xl", 1, "UD-Q4_K_XL"),
        ("ud-q4_k_xl", 1, "UD-Q4_K_XL"),
        ("bf16", 2, "BF16"),
        (None, 5, "Q4_K_M"),
    ],
)
def test_choice(quant, n_files, chosen):
    model = choose_model("u/r", UNSLOTH, quant)
    assert (len(model.files), model.quant) == (n_files, chosen)
    assert has_quant(UNSLOTH, quant)


def test_the_order_of_preference_ends_with_whatever_there_is():
    assert choose_model("u/r", listing("a-Q8_0.gguf", "a-Q6_K.gguf", "a-F16.gguf"), None).quant == "Q6_K"
    assert choose_model("u/r", listing("a-Q2_K.gguf", "a-F16.gguf"), None).quant == "F16"
    assert choose_model("u/r", listing("wonder.gguf"), None).quant is None
    assert offered(UNSLOTH) == ("Q4_K_M", "UD-Q4_K_XL", "IQ4_NL", "Q8_0", "BF16")


def test_a_type_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ModelNotFound, match=r"u/r has no GGUF file of the type q5_k_m") as caught:
        choose_model("u/r", UNSLOTH, "q5_k_m")
    assert caught.value.hint == "it has Q4_K_M, UD-Q4_K_XL, IQ4_NL, Q8_0, BF16"
    assert not has_quant(UNSLOTH, "q5_k_m")
    with pytest.raises(ModelNotFound, match="u/r has no GGUF file"):
        choose_model("u/r", listing("mmproj-F16.gguf", "README.md"), None)


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_an_incomplete_split_set_is_refused_by_name(lost):
    files = listing(*(path for index, path in enumerate(SPLIT) if index != lost))
    with pytest.raises(QwenctlError, match=rf"lacks 1 of the 5 files .*-{lost + 1:05}-of-00005\.gguf"):
        choose_model("u/r", files, "q4_k_m")


def test_two_models_of_one_type_are_for_the_user_to_tell_apart():
    files = listing("small-Q4_K_M.gguf", "large-Q4_K_M.gguf", "large-Q8_0.gguf")
    for quant in ("q4_k_m", None):
        with pytest.raises(QwenctlError, match="has 2 such models") as caught:
            choose_model("u/r", files, quant)
        assert caught.value.hint == "name one: u/r/large-Q4_K_M.gguf or u/r/small-Q4_K_M.gguf"
    assert choose_model("u/r", files, "q8_0").name == "large-Q8_0"


def test_only_weights_we_read_and_small_text_may_be_fetched():
    names = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "chat_template.jinja",
        "LICENSE",
        "README.md",
        "pytorch_model.bin",
        "model.pt",
        "modeling_custom.py",
        "onnx/config.json",
        "figure.png",
        "sub/model.safetensors",
    ]
    files = (*listing(*names), *listing("huge.json", n_bytes=1 << 40))
    repository = Repository("https://hub", "u/r", COMMIT, files)
    assert [file.path for file in repository.shards] == names[:1]
    assert [file.path for file in repository.texts] == names[1:8]
    assert [file.path for file in files if is_pickle(file.path)] == ["pytorch_model.bin", "model.pt"]
    [file] = listing("a b/c#d.gguf")
    assert file.url == f"https://hub/u/r/resolve/{COMMIT}/a%20b/c%23d.gguf"
