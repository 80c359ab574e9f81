"""Names as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import InvalidRequest
from qwenctl.services.hub.model_names import FamilyName, RepoName, parse_name
from qwenctl.services.hub.short_names import SHORT_NAMES

FILE = "Qwen3-8B-Q6_K.gguf"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-8B", RepoName("Qwen/Qwen3-8B")),
        (" Qwen/Qwen3-8B ", RepoName("Qwen/Qwen3-8B")),
        ("Qwen/Qwen3-8B-GGUF:Q4_K_M", RepoName("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("Qwen/Qwen3-8B:q4_k_m+@main", RepoName("Qwen/Qwen3-8B", "q4_k_m+", "main")),
        ("Qwen/Qwen3-8B@refs/pr/3", RepoName("Qwen/Qwen3-8B", None, "refs/pr/3")),
        (f"a.b/c_d/{FILE}", RepoName("a.b/c_d", None, None, FILE)),
        (f"u/r/Q6_K/{FILE}@v1.0", RepoName("u/r", None, "v1.0", f"Q6_K/{FILE}")),
        ("unsloth/X-GGUF/BF16", RepoName("unsloth/X-GGUF", None, None, "BF16")),
        ("hf://Qwen/Qwen3-8B", RepoName("Qwen/Qwen3-8B")),
        ("hf://models/Qwen/Qwen3-8B@abc", RepoName("Qwen/Qwen3-8B", None, "abc")),
        (f"hf://Qwen/X@refs/pr/1/{FILE}", RepoName("Qwen/X", None, "refs/pr/1", FILE)),
        (f"hf://Qwen/X@refs%2Fpr%2F1/{FILE}", RepoName("Qwen/X", None, "refs/pr/1", FILE)),
        ("https://huggingface.co/Qwen/X", RepoName("Qwen/X")),
        ("hf.co/Qwen/X:Q6_K", RepoName("Qwen/X", "Q6_K")),
        (f"https://huggingface.co/Qwen/X/resolve/main/{FILE}?download=true", RepoName("Qwen/X", None, "main", FILE)),
        (f"https://hf.co/Qwen/X/blob/v2/sub/{FILE}", RepoName("Qwen/X", None, "v2", f"sub/{FILE}")),
        ("https://huggingface.co/Qwen/X/tree/main", RepoName("Qwen/X", None, "main")),
        ("https://huggingface.co/Qwen/X/tree/refs%2Fpr%2F1/Q4", RepoName("Qwen/X", None, "refs/pr/1", "Q4")),
        (f"https://huggingface.co/Qwen/X/resolve/main/a%20b/{FILE}", RepoName("Qwen/X", None, "main", f"a b/{FILE}")),
        ("qwen3:8b", FamilyName(SHORT_NAMES["qwen3:8b"])),
        ("Qwen3:30B-A3B:Q6_K", FamilyName(SHORT_NAMES["qwen3:30b-a3b"], "q6_k")),
    ],
)
def test_names(text, expected):
    assert parse_name(text) == expected


def test_the_host_of_another_hub_counts_when_it_is_in_use():
    url = f"http://127.0.0.1:8080/hub/Qwen/X/resolve/main/{FILE}"
    assert parse_name(url, "http://127.0.0.1:8080/hub") == RepoName("Qwen/X", None, "main", FILE)
    with pytest.raises(InvalidRequest) as caught:
        parse_name(url)
    assert caught.value.hint == "set HF_ENDPOINT=http://127.0.0.1:8080 if that is a hub"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("qwen3:30b", "did you mean qwen3:30b-a3b"),
        ("qwen3:235b", "qwen3:235b-a22b-instruct-2507"),
        ("qwen3-8b", "did you mean qwen3:8b"),
        ("qwen3:8b-q4_k_m", "did you mean qwen3:8b:q4_k_m?"),
        ("qwen-3:8b", "did you mean qwen3:8b"),
        ("qwen3", "qwen3:0.6b, qwen3:1.7b"),
        ("qwen3.5", "qwen3.5:397b-a17b"),
        ("llama", "short names begin with qwen3,"),
        ("", "write qwen3:8b"),
    ],
)
def test_near_misses_are_answered(text, hint):
    with pytest.raises(InvalidRequest) as caught:
        parse_name(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "./model.gguf",
        "/data/model.gguf",
        "~/model.gguf",
        "a/../b/c.gguf",
        "a/b/../../c.gguf",
        "-a/b",
        "a/b.",
        "a/b--c",
        "a/b/c.gguf:q4_k_m",
        "a/b@",
        "a/b:",
        "a/b c",
        "hf://datasets/a/b",
        "hf://a",
        "https://huggingface.co/datasets/a/b",
        "https://huggingface.co/a",
        "https://huggingface.co/a/b/discussions/1",
        "https://example.org/a/b",
        "ftp://huggingface.co/a/b",
        "https://huggingface.co/a/b/resolve/main/../../x.gguf",
        "https://huggingface.co/a/b/resolve/main/%2e%2e/x.gguf",
    ],
)
def test_what_names_nothing_is_refused(text):
    with pytest.raises(InvalidRequest):
        parse_name(text)


def test_the_table_is_sound():
    for name, entry in SHORT_NAMES.items():
        assert parse_name(name.upper()) == FamilyName(entry)
        assert isinstance(parse_name(entry.checkpoint), RepoName)
        assert isinstance(parse_name(entry.gguf), RepoName)
        assert entry.gguf.endswith("-GGUF")
        assert entry.gguf.split("/")[1].removesuffix("-GGUF") == entry.checkpoint.split("/")[1]
    assert SHORT_NAMES["qwen3:235b-a22b-instruct-2507"].checkpoint == "Qwen/Qwen3-235B-A22B-Instruct-2507"
    assert SHORT_NAMES["qwen3:8b"].prefers_gguf
    assert not SHORT_NAMES["qwen3:4b-thinking-2507"].prefers_gguf
    assert SHORT_NAMES["qwen3.5:9b"].prefers_gguf


@given(
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet="abQ3:/@.-_%2 ~[]?#", max_size=40),
        st.text(alphabet="ab/[]:%2e.@?#", max_size=30).map("https://huggingface.co/".__add__),
        st.text(alphabet="ab/[]:%2e.@", max_size=30).map("http://".__add__),
        st.text(alphabet="ab/:@.%2eF", max_size=30).map("hf://".__add__),
    )
)
def test_whatever_is_typed_is_a_name_or_refused(text):
    try:
        found = parse_name(text)
    except InvalidRequest:
        return
    if isinstance(found, RepoName):
        parts = [*found.repo_id.split("/"), *(found.path or "x").split("/")]
        assert len(found.repo_id.split("/")) == 2
        assert not {"", ".", ".."} & set(parts)
