"""What a hub says about a file is checked before it becomes an object."""

from __future__ import annotations

from typing import Any

import pytest

from qwenctl.services.hub.content_hash import ContentHash
from qwenctl.services.hub.remote_file import RemoteFile, is_safe_path

GOOD: dict[str, Any] = {
    "repo_id": "Qwen/Qwen3-0.6B",
    "commit": "a" * 40,
    "path": "model.safetensors",
    "url": "https://hub.example/Qwen/Qwen3-0.6B/resolve/main/model.safetensors",
    "n_bytes": 10,
}


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "..", "a\\..\\b", "C:/x", "a\0b", "a\nb", "x" * 300],
)
def test_paths_that_leave_their_folder_are_refused(path: str) -> None:
    assert not is_safe_path(path)
    with pytest.raises(ValueError, match="path"):
        RemoteFile(**GOOD | {"path": path})


@pytest.mark.parametrize("path", ["config.json", "Q4_K_M/Model-00001-of-00003.gguf", "..a/b..", "模型.gguf"])
def test_ordinary_paths_are_taken(path: str) -> None:
    assert RemoteFile(**GOOD | {"path": path}).path == path


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("repo_id", "a/../b", "repository"),
        ("repo_id", "a/b/c", "repository"),
        ("commit", "main", "commit"),
        ("commit", "A" * 40, "commit"),
        ("url", "file:///etc/passwd", "URL"),
        ("url", "https://user:secret@hub.example/x", "URL"),
        ("n_bytes", -1, "size"),
        ("sha256", "a" * 63, "SHA-256"),
        ("sha256", "../" + "a" * 61, "SHA-256"),
        ("git_oid", "a" * 41, "Git hash"),
    ],
)
def test_what_is_no_hash_no_commit_no_url_is_refused(field: str, value: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        RemoteFile(**GOOD | {field: value})


def test_git_hash_of_a_known_blob() -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    remote = RemoteFile(**GOOD | {"n_bytes": 6, "git_oid": "ce013625030ba8dba906f756967f9e9ca394464a"})
    found = ContentHash(remote)
    found.update(b"hel")
    assert not found.fits
    found.update(b"lo\n")
    assert found.fits
