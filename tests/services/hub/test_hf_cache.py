"""What is in huggingface_hub's cache is found, and what is not whole there is not."""

from __future__ import annotations

import hashlib
import importlib

import pytest

from qwenctl.errors import HubFailed
from qwenctl.services.hub.hashing import git_oid_of, sha256_of
from qwenctl.services.hub.hf_cache import cached_file, cached_repository
from qwenctl.services.hub.listing import HubFile
from qwenctl.settings import HubSettings
from tests.services.hub.hf_cache_folder import write_cached

COMMIT = "c" * 40
WEIGHTS = b"weights" * 100
CONTENTS = {"config.json": b"{}", "sub/model.gguf": WEIGHTS}


@pytest.fixture
def cache(tmp_path):
    write_cached(tmp_path / "hub", "u/r", COMMIT, CONTENTS, in_lfs={"sub/model.gguf"})
    return tmp_path / "hub"


def test_a_file_is_found_by_its_hash_whatever_the_commit(cache):
    file = HubFile("elsewhere.gguf", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    found = cached_file(cache, "u/r", "d" * 40, file)
    assert found.read_bytes() == WEIGHTS
    assert not found.is_symlink()
    assert sha256_of(found) == file.sha256
    assert cached_file(cache, "u/other", "d" * 40, file) is None


def test_a_small_file_is_found_by_its_commit(cache):
    config = HubFile("config.json", 2, None, git_oid_of(next((cache / "models--u--r").rglob("config.json"))))
    assert cached_file(cache, "u/r", COMMIT, config).name == config.git_oid
    assert cached_file(cache, "u/r", "d" * 40, config) is None


def test_a_file_of_another_length_is_none(cache):
    file = HubFile("sub/model.gguf", len(WEIGHTS) + 1, hashlib.sha256(WEIGHTS).hexdigest())
    assert cached_file(cache, "u/r", COMMIT, file) is None


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
        with pytest.raises(HubFailed, match="HF_HUB_OFFLINE is set"):
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
