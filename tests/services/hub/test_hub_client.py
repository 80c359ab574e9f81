"""The real huggingface_hub against a hub on loopback: what is listed, what is refused, what is tried again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwenctl.errors import HubAccessRefused, HubUnreachable, ModelNotFound
from qwenctl.services.hub.hub_client import HubClient
from qwenctl.settings import HubSettings
from tests.hub_server.faults import Fault
from tests.hub_server.server import HubServer

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/other.gguf": b"GGUF" * 9}


@pytest.fixture
def hub():
    with HubServer(tokens={"hf_member": {"o/gated", "o/private"}, "hf_stranger": set()}) as server:
        yield server


def client(hub, token=None, **settings):
    return HubClient(HubSettings(Path("none"), hub.url, token, **settings), sleep=lambda _: None)


def test_a_repository_is_listed_at_its_commit_with_hashes(hub):
    repo = hub.add("o/m", FILES, licence="apache-2.0")
    repository = client(hub).repository("o/m")
    assert repository.commit == repo.refs["main"]
    assert repository.license_name == "apache-2.0"
    assert (repository.gated, repository.is_private) == (None, False)
    assert {file.path: file.n_bytes for file in repository.files} == {path: len(data) for path, data in FILES.items()}
    by_path = {file.path: file for file in repository.files}
    assert by_path["model.safetensors"].sha256 is not None
    assert by_path["model.safetensors"].git_oid is None
    assert by_path["config.json"].sha256 is None
    assert by_path["config.json"].git_oid is not None
    assert by_path["sub/other.gguf"].url == f"{hub.url}/o/m/resolve/{repository.commit}/sub/other.gguf"


def test_a_long_listing_has_several_pages(hub):
    hub.add("o/m", {f"file-{number:03}.json": b"{}" for number in range(130)})
    assert len(client(hub).repository("o/m").files) == 130


def test_a_revision_stays_what_it_was(hub):
    repo = hub.add("o/m", FILES)
    first = repo.refs["main"]
    repo.commit({"config.json": b"[]"})
    assert client(hub).repository("o/m", first).commit == first
    assert client(hub).repository("o/m", first[:8]).commit == first
    assert client(hub).repository("o/m").commit != first


def test_what_is_not_there(hub):
    repo = hub.add("o/m", FILES)
    repo.refs["v1"] = repo.refs["main"]
    with pytest.raises(ModelNotFound, match="o/m has no revision v2") as caught:
        client(hub).repository("o/m", "v2")
    assert caught.value.hint == "it has main, v1"
    with pytest.raises(ModelNotFound, match="no repository o/n at http") as caught:
        client(hub).repository("o/n")
    assert caught.value.hint == "if it is private, set HF_TOKEN, or log in: hf auth login"
    with pytest.raises(ModelNotFound) as caught:
        client(hub).repository("Qwen/Qwen3-30B-A3")
    assert caught.value.hint == "did you mean Qwen/Qwen3-30B-A3B?"


def test_gated_repositories_say_what_to_do(hub):
    hub.add("o/gated", FILES, gated="auto")
    page = f"{hub.url}/o/gated"
    with pytest.raises(HubAccessRefused, match="o/gated is gated") as caught:
        client(hub).repository("o/gated")
    assert caught.value.hint == f"accept the licence at {page}, then set HF_TOKEN, or log in: hf auth login"
    with pytest.raises(HubAccessRefused, match="this token has no access") as caught:
        client(hub, "hf_stranger").repository("o/gated")
    assert caught.value.hint == f"ask for access at {page}"
    assert client(hub, "hf_member").repository("o/gated").gated == "auto"
    with pytest.raises(HubAccessRefused):  # a token that may not be sent is none
        client(hub, "hf_member", may_send_token=False).repository("o/gated")


def test_private_repositories_and_bad_tokens(hub):
    hub.add("o/private", FILES, private=True)
    assert client(hub, "hf_member").repository("o/private").is_private
    with pytest.raises(ModelNotFound, match="no repository o/private"):
        client(hub, "hf_stranger").repository("o/private")
    with pytest.raises(HubAccessRefused, match="does not accept the token"):
        client(hub, "hf_nonsense").repository("o/private")


def test_a_busy_hub_is_asked_again_and_a_busy_one_for_long_is_an_error(hub):
    hub.add("o/m", FILES)
    waited = []
    answers = iter([Fault(status=429, headers={"Retry-After": "7"}), Fault(status=503)])
    hub.fault = lambda _: next(answers, None)
    asked = HubClient(HubSettings(Path("none"), hub.url), sleep=waited.append)
    assert asked.repository("o/m").repo_id == "o/m"
    assert waited[0] == 7.0  # as it asks
    assert 1.0 <= waited[1] <= 2.0
    hub.fault = lambda _: Fault(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(HubUnreachable, match="too many requests") as caught:
        asked.repository("o/m")
    assert "with a token more is allowed" in caught.value.hint
    assert len(waited) == 2  # an hour is not waited for
    hub.fault = lambda _: Fault(status=500)
    with pytest.raises(HubUnreachable, match="answers 500 for o/m"):
        asked.repository("o/m")


def test_a_hub_that_is_not_there():
    asked = HubClient(HubSettings(Path("none"), "http://127.0.0.1:9"), sleep=lambda _: None)
    with pytest.raises(HubUnreachable, match=r"cannot reach http://127\.0\.0\.1:9: .*refused"):
        asked.repository("o/m")


def test_offline_nothing_is_asked(hub):
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
        client(hub, offline=True)


def test_a_stored_token_is_used_and_nothing_is_told_of_the_machine(hub, tmp_path):
    """In a process of its own: huggingface_hub reads its variables once."""
    hub.add("o/gated", FILES, gated="manual")
    (tmp_path / "token").write_text("hf_member\n")
    program = (
        "import os, json, sys; from qwenctl.settings import Settings; from qwenctl.services.hub.hub_client import *\n"
        "client = HubClient(Settings.from_environment(os.environ).hub)\n"
        "client.repository('o/gated')\n"
        "from huggingface_hub import constants; from huggingface_hub.utils import build_hf_headers\n"
        "print(json.dumps([constants.HF_HUB_DISABLE_TELEMETRY, build_hf_headers(), client._api._build_hf_headers()]))"
    )
    env = {"PATH": "/bin", "HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "AI_AGENT": "x"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    telemetry_off, implicit, explicit = json.loads(done.stdout)
    assert telemetry_off
    assert "authorization" not in implicit
    assert explicit["authorization"] == "Bearer hf_member"
    assert "agent" not in explicit["user-agent"]
    assert explicit["user-agent"].startswith("qwenctl/")
