"""What is in huggingface_hub's cache is found, and what is not whole there is not."""

from __future__ import annotations

import hashlib
import importlib

import pytest

from qwenctl.errors import HubUnreachable
from qwenctl.services.hub.hashing import holds, sha256_of
from qwenctl.services.hub.hf_cache import cached_file, cached_repository
from qwenctl.services.hub.listing import listed_file
from qwenctl.settings import HubSettings
from tests.services.hub.hf_cache_folder import write_cached

COMMIT = "c" * 40
WEIGHTS = b"weights" * 100
CONTENTS = {"config.json": b"{}", "sub/model.gguf": WEIGHTS}


def remote(path, n_bytes, sha256=None, *, repo_id="u/r", commit=COMMIT, git_oid=None):
    return listed_file("https://hub", repo_id, commit, path, n_bytes=n_bytes, sha256=sha256, git_oid=git_oid)


@pytest.fixture
def cache(tmp_path):
    write_cached(tmp_path / "hub", "u/r", COMMIT, CONTENTS, in_lfs={"sub/model.gguf"})
    return tmp_path / "hub"


def test_a_file_is_found_by_its_hash_whatever_the_commit(cache):
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    found = cached_file(cache, remote("elsewhere.gguf", len(WEIGHTS), sha256, commit="d" * 40))
    assert found.read_bytes() == WEIGHTS
    assert not found.is_symlink()
    assert sha256_of(found) == sha256
    assert cached_file(cache, remote("elsewhere.gguf", len(WEIGHTS), sha256, repo_id="u/other")) is None


def test_a_small_file_is_found_by_its_commit(cache):
    found = cached_file(cache, remote("config.json", 2))
    assert holds(found, remote("config.json", 2, git_oid=found.name))
    assert not holds(found, remote("config.json", 2, git_oid="0" * 40))
    assert not holds(found, remote("config.json", 3, git_oid=found.name))
    assert cached_file(cache, remote("config.json", 2, commit="d" * 40)) is None


def test_a_file_of_another_length_is_none(cache):
    file = remote("sub/model.gguf", len(WEIGHTS) + 1, hashlib.sha256(WEIGHTS).hexdigest())
    assert cached_file(cache, file) is None


@pytest.mark.parametrize("with_tree", [False, True])
def test_the_repository_without_a_network(tmp_path, with_tree):
    write_cached(tmp_path, "u/r", COMMIT, CONTENTS, in_lfs={"sub/model.gguf"}, with_tree=with_tree)
    settings = HubSettings(tmp_path)
    repository = cached_repository(settings, "u/r")
    assert (repository.commit, repository.revision) == (COMMIT, "main")
    assert {file.path: file.sha256 for file in repository.files} == {
        "config.json": None,
        "sub/model.gguf": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert cached_repository(settings, "u/r", COMMIT).files == repository.files
    for repo_id, revision in (("u/other", None), ("u/r", "v2"), ("u/r", "../refs/main"), ("u/r", "d" * 40)):
        with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
            cached_repository(settings, repo_id, revision)


def test_a_tree_that_is_not_of_the_known_version_is_left_aside(tmp_path):
    write_cached(tmp_path, "u/r", COMMIT, CONTENTS, with_tree=True)
    (tmp_path / "models--u--r" / "trees" / f"{COMMIT}.json").write_text('{"format_version": 2, "files": {}}')
    assert len(cached_repository(HubSettings(tmp_path), "u/r").files) == 2


def test_the_layout_is_the_one_that_huggingface_hub_reads(cache):
    hub = importlib.import_module("huggingface_hub")
    assert hub.try_to_load_from_cache("u/r", "sub/model.gguf", cache_dir=cache)
    [repo] = hub.scan_cache_dir(cache).repos
    assert repo.repo_id == "u/r"
    assert {file.file_name for revision in repo.revisions for file in revision.files} == {"config.json", "model.gguf"}
