"""What names and options mean, on listings as they are on the hub."""

from __future__ import annotations

import pytest

from qwenctl.errors import InvalidRequest, ModelNotFound, QwenctlError
from qwenctl.services.hub.listing import Repository, listed_file
from qwenctl.services.hub.model_names import parse_name
from qwenctl.services.hub.resolution import Choice, resolve, with_options

COMMIT = "0" * 40
CHECKPOINT = ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
HUB = {
    "Qwen/Qwen3-0.6B": CHECKPOINT,
    "Qwen/Qwen3-0.6B-GGUF": ("Qwen3-0.6B-Q8_0.gguf",),
    "Qwen/Qwen3-8B": CHECKPOINT,
    "Qwen/Qwen3-8B-GGUF": ("Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q8_0.gguf"),
    "Qwen/Qwen3-4B-Instruct-2507": CHECKPOINT,
    "unsloth/Qwen3.5-9B-GGUF": ("Qwen3.5-9B-Q4_K_M.gguf", "mmproj-F16.gguf"),
    "u/split": ("Q4_K_M/model-00001-of-00002.gguf", "Q4_K_M/model-00002-of-00002.gguf", "Q8_0/model-Q8_0.gguf"),
    "u/both": (*CHECKPOINT, "both-Q8_0.gguf"),
    "u/pickles": ("config.json", "pytorch_model.bin"),
    "u/nothing": ("README.md",),
}


class Hub:
    def __init__(self):
        self.asked = []

    def __call__(self, repo_id, revision):
        self.asked.append(repo_id)
        if repo_id not in HUB:
            raise ModelNotFound(f"no repository {repo_id}")
        files = [
            listed_file("https://hub", repo_id, COMMIT, path, n_bytes=10, sha256=None, git_oid=None)
            for path in HUB[repo_id]
        ]
        bases = (repo_id.removesuffix("-GGUF"),) if repo_id.endswith("-GGUF") else ()
        return Repository("https://hub", repo_id, COMMIT, tuple(files), revision or "main", base_models=bases)


def found(text, quant=None, **choice):
    name = with_options(parse_name(text), quant, None)
    wanted = resolve(name, Choice(**choice), Hub())
    return wanted.kind, wanted.repository.repo_id, wanted.quant, wanted.label, len(wanted.files)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        # A repository's name means that repository.
        ("Qwen/Qwen3-8B", {}, ("conversion", "Qwen/Qwen3-8B", "q4_k_m", "qwen3-8b-q4_k_m", 2)),
        ("Qwen/Qwen3-8B:Q6_K", {}, ("conversion", "Qwen/Qwen3-8B", "q6_k", "qwen3-8b-q6_k", 2)),
        ("Qwen/Qwen3-8B", {"quant": "iq4+"}, ("conversion", "Qwen/Qwen3-8B", "iq4+", "qwen3-8b-iq4+", 2)),
        ("Qwen/Qwen3-8B", {"as_it_is": True}, ("checkpoint", "Qwen/Qwen3-8B", None, "Qwen3-8B", 2)),
        ("Qwen/Qwen3-8B-GGUF", {}, ("gguf", "Qwen/Qwen3-8B-GGUF", "Q4_K_M", "qwen3-8b-q4_k_m", 1)),
        ("Qwen/Qwen3-8B-GGUF:q8_0", {}, ("gguf", "Qwen/Qwen3-8B-GGUF", "Q8_0", "qwen3-8b-q8_0", 1)),
        ("u/split", {}, ("gguf", "u/split", "Q4_K_M", "split-q4_k_m", 2)),
        ("u/split/Q8_0", {}, ("gguf", "u/split", "Q8_0", "model-q8_0", 1)),
        ("u/split/Q4_K_M/model-00001-of-00002.gguf", {}, ("gguf", "u/split", "Q4_K_M", "split-q4_k_m", 2)),
        ("u/both", {}, ("gguf", "u/both", "Q8_0", "both-q8_0", 1)),
        ("u/both:q4_k_m", {}, ("conversion", "u/both", "q4_k_m", "both-q4_k_m", 2)),
        ("u/both", {"must_convert": True}, ("conversion", "u/both", "q4_k_m", "both-q4_k_m", 2)),
        ("Qwen/Qwen3-8B", {"export": "awq"}, ("export", "Qwen/Qwen3-8B", "awq", "Qwen3-8B-AWQ", 2)),
        # A short name means the makers' GGUF where it has the type, else the checkpoint.
        ("qwen3:8b", {}, ("gguf", "Qwen/Qwen3-8B-GGUF", "Q4_K_M", "qwen3-8b-q4_k_m", 1)),
        ("qwen3:8b:q6_k", {}, ("conversion", "Qwen/Qwen3-8B", "q6_k", "qwen3-8b-q6_k", 2)),
        ("qwen3:8b", {"must_convert": True}, ("conversion", "Qwen/Qwen3-8B", "q4_k_m", "qwen3-8b-q4_k_m", 2)),
        ("qwen3:0.6b", {}, ("gguf", "Qwen/Qwen3-0.6B-GGUF", "Q8_0", "qwen3-0.6b-q8_0", 1)),
        ("qwen3:0.6b", {"quant": "q4_k_m"}, ("conversion", "Qwen/Qwen3-0.6B", "q4_k_m", "qwen3-0.6b-q4_k_m", 2)),
        (
            "qwen3:4b-instruct-2507",
            {},
            ("conversion", "Qwen/Qwen3-4B-Instruct-2507", "q4_k_m", "qwen3-4b-instruct-2507-q4_k_m", 2),
        ),
        ("qwen3.5:9b", {}, ("gguf", "unsloth/Qwen3.5-9B-GGUF", "Q4_K_M", "qwen3.5-9b-q4_k_m", 1)),
    ],
)  # fmt: skip
def test_what_names_mean(text, options, expected):
    assert found(text, **options) == expected


@pytest.mark.parametrize(
    ("text", "options", "error", "message", "hint"),
    [
        ("u/pickles", {}, InvalidRequest, "pickles only", "choose a repository with safetensors"),
        ("u/nothing", {}, ModelNotFound, "holds no model", "https://hub/u/nothing"),
        ("Qwen/Qwen3-8B:q9_z", {}, InvalidRequest, "no type 'q9_z'|no type q9_z", "choose one of"),
        ("Qwen/Qwen3-8B-GGUF:q6_k", {}, ModelNotFound, "no GGUF file of the type q6_k", "it has Q4_K_M, Q8_0"),
        ("u/both:q9_z", {}, InvalidRequest, "no type q9_z", "ready-made are Q8_0"),
        ("u/split/none.gguf", {}, ModelNotFound, "has no file none.gguf", "it has Q4_K_M/model"),
        ("u/both/config.json", {}, ModelNotFound, "no GGUF file at config.json", "name the repository: u/both"),
        ("u/both/both-Q8_0.gguf", {"as_it_is": True}, InvalidRequest, "is a part of", "name all of it: u/both"),
        (
            "Qwen/Qwen3-8B-GGUF",
            {"must_convert": True},
            InvalidRequest,
            "GGUF files only",
            "the original: Qwen/Qwen3-8B",
        ),
        ("Qwen/Qwen3-8B-GGUF", {"as_it_is": True}, InvalidRequest, "GGUF files only", "the original: Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B:q6_k", {"export": "awq"}, InvalidRequest, "awq has one type", "leave the type out"),
        ("qwen3.5:9b", {"export": "gptq"}, InvalidRequest, "cannot be converted", "pull unsloth/Qwen3.5-9B-GGUF"),
        ("Qwen/Qwen3-8B-GGUF", {"export": "awq"}, InvalidRequest, "need the original weights", "Qwen/Qwen3-8B"),
        ("qwen3.5:9b:q6_k", {}, ModelNotFound, "no GGUF file of the type q6_k", "it has Q4_K_M"),
        ("qwen3.5:9b", {"must_convert": True}, InvalidRequest, "cannot be converted", "pull unsloth/Qwen3.5-9B-GGUF"),
        ("qwen3:8b:q4_k_m", {"quant": "q8_0"}, InvalidRequest, "the name says q4_k_m, --quant q8_0", "leave one"),
    ],
)
def test_what_cannot_be_had(text, options, error, message, hint):
    with pytest.raises(error, match=message) as caught:
        found(text, **options)
    assert hint in caught.value.hint


def test_revisions():
    name = with_options(parse_name("Qwen/Qwen3-8B"), None, "v1")
    assert resolve(name, Choice(), Hub()).repository.revision == "v1"
    for text in ("Qwen/Qwen3-8B@v2", "qwen3:8b"):
        with pytest.raises(InvalidRequest):
            with_options(parse_name(text), None, "v1")


def test_the_other_way_is_told():
    assert "qwenctl pull Qwen/Qwen3-8B" in resolve(parse_name("qwen3:8b"), Choice(), Hub()).notes[0]
    assert "qwenctl pull Qwen/Qwen3-8B-GGUF" in resolve(parse_name("qwen3:8b:q6_k"), Choice(), Hub()).notes[0]


def test_an_incomplete_set_is_refused_also_by_its_file():
    files = HUB["u/split"]
    HUB["u/torn"] = files[:1]
    with pytest.raises(QwenctlError, match="lacks 1 of the 2 files"):
        found("u/torn/Q4_K_M/model-00001-of-00002.gguf")
