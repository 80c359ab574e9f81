"""`qwenctl pull` against a hub on loopback, through the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from importlib import import_module
from math import prod
from pathlib import Path

import numpy as np
import pytest

from quant.conversion_plan import read_source
from quant.digests import read_digests
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_file import write_imatrix
from tests.cli.terminal import Terminal
from tests.hub_server.faults import Fault
from tests.hub_server.server import HubServer
from tests.services.hub.hf_cache_folder import write_cached
from tests.tiny_gguf import TinyGguf

SMALL = bytes(range(256)) * 12_000  # 3 MB: several slices of a download


@pytest.fixture
def hub(monkeypatch):
    with HubServer(tokens={"hf_member": {"o/gated"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def models(home):
    return home / "data" / "qwenctl" / "models"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return TinyGguf.of("qwen3moe").write(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def ready(hub, gguf):
    files = {
        "README.md": b"# Tiny",
        "Tiny-Q4_K_M.gguf": gguf,
        "Tiny-Q8_0.gguf": gguf + bytes(8),
        "mmproj-F16.gguf": b"GGUF",
        "Q6_K/Tiny-Q6_K-00001-of-00002.gguf": SMALL,
        "Q6_K/Tiny-Q6_K-00002-of-00002.gguf": SMALL[::-1],
    }
    return hub.add("o/Tiny-GGUF", files, licence="apache-2.0")


@pytest.fixture
def checkpoint(hub, tiny_moe_folder):
    return hub.add("o/Tiny", {path.name: path for path in tiny_moe_folder.iterdir()}, licence="mit")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# Files as they are.


def test_a_gguf_file_under_a_good_name_with_its_record(qwenctl, ready, models, gguf):
    ran = qwenctl("pull", "o/Tiny-GGUF")
    path = models / "tiny-q4_k_m.gguf"
    assert (ran.code, ran.stdout) == (0, f"{path}\n")
    assert path.read_bytes() == gguf
    for words in (
        "run it: qwenctl run tiny-q4_k_m\n",
        "licence   apache-2.0",
        "access    open to everyone",
        ready.refs["main"][:12],
        "to fetch",
        " free",
    ):
        assert words in ran.stderr
    record = json.loads((models / "tiny-q4_k_m.gguf.origin.json").read_text())
    assert (record["repo"], record["commit"], record["license"]) == ("o/Tiny-GGUF", ready.refs["main"], "apache-2.0")
    [file] = record["files"]
    assert (file["name"], file["sha256"], file["source"]) == (path.name, sha256(gguf), "Tiny-Q4_K_M.gguf")
    assert sorted(path.name for path in models.iterdir()) == [path.name, f"{path.name}.origin.json"]


def test_again_nothing_is_fetched_and_the_path_is_still_the_last_line(qwenctl, hub, ready, models):
    first = qwenctl("pull", "o/Tiny-GGUF:q8_0")
    served = dict(hub.served)
    again = qwenctl("pull", "o/Tiny-GGUF:Q8_0")
    assert (again.code, again.stdout) == (0, first.stdout)
    assert "here already" in again.stderr
    assert dict(hub.served) == served


def test_a_split_set_is_fetched_whole_and_named_for_llama(qwenctl, ready, models):
    ran = qwenctl("pull", "o/Tiny-GGUF:q6_k", "six")
    assert ran.stdout == f"{models / 'six-00001-of-00002.gguf'}\n"
    assert (models / "six-00001-of-00002.gguf").read_bytes() == SMALL
    assert (models / "six-00002-of-00002.gguf").read_bytes() == SMALL[::-1]


def test_a_file_by_its_address_into_a_path(qwenctl, hub, ready, tmp_path, gguf):
    out = tmp_path / "mine.gguf"
    ran = qwenctl("pull", f"{hub.url}/o/Tiny-GGUF/resolve/main/Tiny-Q8_0.gguf", out)
    assert ran.stdout == f"{out}\n"
    assert out.read_bytes() == gguf + bytes(8)


def test_a_revision_is_pinned(qwenctl, ready, models):
    old = ready.refs["main"]
    ready.commit({"Tiny-Q4_K_M.gguf": b"GGUF, but another"})
    assert qwenctl("pull", "o/Tiny-GGUF", "old", "--revision", old[:10]).code == 0
    assert qwenctl("pull", "o/Tiny-GGUF", "new").code == 0
    assert (models / "new.gguf").read_bytes() == b"GGUF, but another"
    assert (models / "old.gguf").read_bytes() != b"GGUF, but another"
    assert json.loads((models / "old.gguf.origin.json").read_text())["commit"] == old


def test_dry_run_fetches_and_writes_nothing(qwenctl, hub, ready, models, checkpoint):
    ran = qwenctl("pull", "o/Tiny-GGUF:q6_k", "--dry-run", "--json")
    plan = json.loads(ran.stdout)
    assert plan["bytes_to_fetch"] == plan["disk_bytes"] == 2 * len(SMALL)
    assert [file["state"] for file in plan["files"]] == ["missing", "missing"]
    assert [file["sha256"] for file in plan["files"]] == [sha256(SMALL), sha256(SMALL[::-1])]
    assert not any(file.endswith(".gguf") for file in hub.served)
    assert qwenctl("pull", "o/Tiny:q8_0", "--dry-run").stdout == f"{models / 'tiny-q8_0.gguf'}\n"
    assert not models.exists() or list(models.iterdir()) == []


def test_another_file_of_the_name_is_not_replaced_unasked(qwenctl, ready, models, gguf):
    models.mkdir(parents=True)
    (models / "tiny-q4_k_m.gguf").write_bytes(b"precious")
    ran = qwenctl("pull", "o/Tiny-GGUF")
    assert ran.code == 1
    assert "is there already" in ran.stderr
    assert (models / "tiny-q4_k_m.gguf").read_bytes() == b"precious"
    assert qwenctl("pull", "o/Tiny-GGUF", "--force").code == 0
    assert (models / "tiny-q4_k_m.gguf").read_bytes() == gguf


def test_damage_is_found_and_mended_by_force(qwenctl, ready, models, gguf):
    assert qwenctl("pull", "o/Tiny-GGUF").code == 0
    path = models / "tiny-q4_k_m.gguf"
    path.write_bytes(gguf[:-1] + bytes([gguf[-1] ^ 1]))
    ran = qwenctl("verify", "tiny-q4_k_m")
    assert ran.code == 1
    assert f"{path}: damaged" in ran.stderr
    assert "qwenctl pull o/Tiny-GGUF --force" in ran.stderr
    assert qwenctl("pull", "o/Tiny-GGUF", "--force").code == 0
    assert qwenctl("verify", "tiny-q4_k_m").code == 0


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(qwenctl, hub, ready, monkeypatch):
    monkeypatch.setattr("quant.durable_files.DurableFiles.free_bytes", lambda *_: 1 << 20)
    for name in ("o/Tiny-GGUF:q6_k",):
        ran = qwenctl("pull", name)
        assert ran.code == 3
        assert "free" in ran.stderr
    assert not any(file.endswith(".gguf") for file in hub.served)


def test_a_checkpoint_as_it_is_is_what_convert_reads(qwenctl, checkpoint, tmp_path, hub):
    ran = qwenctl("pull", "o/Tiny", tmp_path / "raw", "--raw")
    assert ran.stdout == f"{tmp_path / 'raw'}\n"
    assert qwenctl("convert", tmp_path / "raw", tmp_path / "raw.gguf").code == 0
    assert qwenctl("pull", "o/Tiny", tmp_path / "streamed.gguf").code == 0
    assert (tmp_path / "raw.gguf").stat().st_size > 1 << 20


# Converted on the way.


def test_a_checkpoint_is_converted_and_its_weights_never_rest(qwenctl, checkpoint, models):
    ran = qwenctl("pull", "o/Tiny", "--quant", "q6_k")
    path = models / "tiny-q6_k.gguf"
    assert (ran.code, ran.stdout) == (0, f"{path}\n")
    assert "licence   mit" in ran.stderr
    assert sorted(path.name for path in models.iterdir()) == [
        path.name,
        f"{path.name}.digests.json",
        f"{path.name}.origin.json",
    ]
    record = json.loads((models / f"{path.name}.origin.json").read_text())
    assert record["converted_to"] == "q6_k"
    assert len(record["sources"]) == 2
    assert qwenctl("models", "verify").code == 0
    assert "here already" in qwenctl("pull", "o/Tiny:q6_k").stderr


@pytest.fixture
def imatrix(tiny_moe_folder, tmp_path):
    rng = np.random.default_rng(0)
    entries = {}
    for name, shape in read_source(tiny_moe_folder).shapes.items():
        if len(shape) > 1 and "token_embd" not in name:
            n_matrices = prod(shape[:-2])
            sums = np.exp(2 * rng.standard_normal((n_matrices, shape[-1]))).astype(np.float32)
            entries[name] = ImatrixEntry(sums, np.full(n_matrices, 50, np.float32))
    write_imatrix(Imatrix(entries, ("words.txt",), 7, 512), tmp_path / "imatrix.gguf")
    return tmp_path / "imatrix.gguf"


def test_a_published_importance_matrix_is_found(qwenctl, hub, checkpoint, imatrix, tiny_moe_folder, tmp_path, models):
    hub.add("o/Tiny-GGUF", {"Tiny-Q4_K_M.gguf": b"GGUF", "imatrix_other.gguf_file": imatrix})
    assert qwenctl("convert", tiny_moe_folder, tmp_path / "local.gguf", "--imatrix", imatrix).code == 0
    ran = qwenctl("pull", "o/Tiny", "--imatrix", "o/Tiny-GGUF")
    assert ran.code == 0, ran.stderr
    record = json.loads((models / "tiny-q4_k_m.gguf.origin.json").read_text())
    assert record["imatrix"] == "o/Tiny-GGUF"
    local = read_digests(tmp_path / "local.gguf").parts[1:]  # the header names the checkpoint and the matrix
    pulled = read_digests(models / "tiny-q4_k_m.gguf").parts[1:]
    assert {part.name: part.sha256 for part in pulled} == {part.name: part.sha256 for part in local}
    ran = qwenctl("pull", "o/Tiny", "other", "--imatrix", "o/Tiny")
    assert (ran.code, "o/Tiny has no importance matrices" in ran.stderr) == (1, True)
    ran = qwenctl("pull", "o/Tiny-GGUF", "--imatrix", "o/Tiny-GGUF")
    assert (ran.code, "GGUF files only" in ran.stderr) == (2, True)


def test_an_export_is_the_folder_that_convert_makes(qwenctl, checkpoint, tiny_moe_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--format", "awq", "--group-size", "32")
    plan = json.loads(qwenctl("pull", "o/Tiny", *options, "--dry-run", "--json").stdout)
    assert (plan["kind"], plan["path"]) == ("export", "Tiny-AWQ")
    ran = qwenctl("pull", "o/Tiny", *options)
    assert (ran.code, ran.stdout) == (0, "Tiny-AWQ\n")
    assert "serve it: vllm serve Tiny-AWQ" in ran.stderr
    assert qwenctl("convert", tiny_moe_folder, "local", *options).code == 0
    shards = sorted(path.name for path in Path("local").glob("*.safetensors"))
    assert shards
    for name in shards:
        assert Path("Tiny-AWQ", name).read_bytes() == Path("local", name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Tiny-AWQ", "Tiny-AWQ.origin.json", "local"]
    assert "here already" in qwenctl("pull", "o/Tiny", *options).stderr


def test_what_cannot_be_converted_leaves_nothing(qwenctl, hub, tiny_moe_folder, models):
    files = {path.name: path for path in tiny_moe_folder.iterdir()}
    config = json.loads((tiny_moe_folder / "config.json").read_text()) | {"architectures": ["Qwen9ForCausalLM"]}
    hub.add("o/new", files | {"config.json": json.dumps(config).encode()})
    ran = qwenctl("pull", "o/new")
    assert ran.code == 1
    assert "Qwen9ForCausalLM" in ran.stderr
    assert list(models.iterdir()) == []


# What is here already.


def test_files_in_the_hugging_face_cache_are_linked_not_copied(qwenctl, hub, ready, models, home, gguf):
    cache = home / "cache" / "huggingface" / "hub"
    write_cached(cache, "o/Tiny-GGUF", ready.refs["main"], {"Tiny-Q4_K_M.gguf": gguf}, in_lfs={"Tiny-Q4_K_M.gguf"})
    ran = qwenctl("pull", "o/Tiny-GGUF")
    path = models / "tiny-q4_k_m.gguf"
    assert ran.code == 0
    assert path.is_symlink()
    assert path.resolve() == (cache / "models--o--Tiny-GGUF" / "blobs" / sha256(gguf)).resolve()
    assert hub.served["o/Tiny-GGUF/Tiny-Q4_K_M.gguf"] == 0
    assert "linked from the Hugging Face cache" in ran.stderr
    assert qwenctl("models", "verify").code == 0


def test_of_a_split_set_only_what_the_cache_lacks_is_fetched(qwenctl, hub, ready, models, home):
    first = "Q6_K/Tiny-Q6_K-00001-of-00002.gguf"
    write_cached(home / "cache/huggingface/hub", "o/Tiny-GGUF", ready.refs["main"], {first: SMALL}, in_lfs={first})
    plan = json.loads(qwenctl("pull", "o/Tiny-GGUF:q6_k", "six", "--dry-run", "--json").stdout)
    assert [file["state"] for file in plan["files"]] == ["cached", "missing"]
    assert plan["disk_bytes"] == len(SMALL)
    assert qwenctl("pull", "o/Tiny-GGUF:q6_k", "six").code == 0
    assert (models / "six-00001-of-00002.gguf").is_symlink()
    assert (models / "six-00002-of-00002.gguf").read_bytes() == SMALL[::-1]
    assert hub.served[f"o/Tiny-GGUF/{first}"] == 0
    assert "here already" in qwenctl("pull", "o/Tiny-GGUF:q6_k", "six").stderr


def test_what_huggingface_hub_itself_has_fetched_is_used(qwenctl, hub, ready, models, home, gguf, monkeypatch):
    """Its own client fills the cache; then the hub is asked for listings only, and offline for nothing at all."""
    cache = home / "cache" / "huggingface" / "hub"
    import_module("huggingface_hub").snapshot_download(
        "o/Tiny-GGUF", allow_patterns=["*Q4_K_M.gguf", "README.md"], cache_dir=cache, endpoint=hub.url, token=False
    )
    served = hub.served["o/Tiny-GGUF/Tiny-Q4_K_M.gguf"]
    assert served == len(gguf)
    assert qwenctl("pull", "o/Tiny-GGUF").code == 0
    assert hub.served["o/Tiny-GGUF/Tiny-Q4_K_M.gguf"] == served
    assert (models / "tiny-q4_k_m.gguf").resolve().is_relative_to(cache.resolve())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    n_asked = len(hub.exchanges)
    assert qwenctl("pull", "o/Tiny-GGUF", "again").code == 0
    assert (models / "again.gguf").read_bytes() == gguf
    ran = qwenctl("pull", "o/Tiny-GGUF:q8_0")
    assert (ran.code, ran.stdout) == (1, "")
    assert "HF_HUB_OFFLINE is set" in ran.stderr or "it has Q4_K_M" in ran.stderr
    assert len(hub.exchanges) == n_asked


def test_a_damaged_file_in_the_cache_is_left_alone_and_fetched(qwenctl, hub, ready, models, home, gguf):
    cache = home / "cache" / "huggingface" / "hub"
    write_cached(cache, "o/Tiny-GGUF", ready.refs["main"], {"Tiny-Q4_K_M.gguf": gguf}, in_lfs={"Tiny-Q4_K_M.gguf"})
    blob = cache / "models--o--Tiny-GGUF" / "blobs" / sha256(gguf)
    damaged = gguf[:-1] + bytes([gguf[-1] ^ 1])
    blob.write_bytes(damaged)
    ran = qwenctl("pull", "o/Tiny-GGUF")
    assert ran.code == 0
    assert "is damaged, and not used" in ran.stderr
    path = models / "tiny-q4_k_m.gguf"
    assert not path.is_symlink()
    assert path.read_bytes() == gguf
    assert blob.read_bytes() == damaged


def test_a_checkpoint_in_the_cache_is_converted_without_a_network(qwenctl_process, models, home, tiny_moe_folder):
    cache = home / "cache" / "huggingface" / "hub"
    contents = {path.name: path.read_bytes() for path in tiny_moe_folder.iterdir()}
    write_cached(cache, "o/Tiny", "c" * 40, contents, in_lfs={name for name in contents if "safetensors" in name})
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ran = qwenctl_process("pull", "o/Tiny", env=nowhere)
    assert ran.code == 0, ran.stderr
    assert (models / "tiny-q4_k_m.gguf").is_file()
    ran = qwenctl_process("pull", "o/Other", env=nowhere)
    assert (ran.code, "HF_HUB_OFFLINE is set" in ran.stderr) == (1, True)


# What is refused, and how it ends.


def test_gated_without_and_with_a_token(qwenctl, hub, gguf, models, monkeypatch):
    hub.add("o/gated", {"m-Q8_0.gguf": gguf}, gated="manual")
    ran = qwenctl("pull", "o/gated")
    assert ran.code == 1
    assert f"accept the licence at {hub.url}/o/gated, then set HF_TOKEN, or log in: hf auth login" in ran.stderr
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    ran = qwenctl("pull", "o/gated")
    assert ran.code == 0
    assert "gated; your token has access" in ran.stderr
    assert "hf_member" not in ran.stderr + ran.stdout
    assert hub.tokens_at_storage == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["o/none"], 1, "no repository o/none"),
        (["o/pickles"], 2, "pickles only"),
        (["qwen3:30b"], 2, "did you mean qwen3:30b-a3b"),
        (["o/Tiny-GGUF:q5_0"], 1, "it has Q4_K_M, Q6_K, Q8_0"),
        (["o/Tiny-GGUF", "--revision", "v9"], 1, "has no revision v9"),
        (["o/Tiny-GGUF", "--raw"], 2, "GGUF files only"),
        (["o/Tiny-GGUF", "--raw", "--quant", "q6_k"], 2, "leave --quant"),
        (["o/Tiny-GGUF", "--raw", "--format", "awq"], 2, "leave --quant"),
        (["o/Tiny-GGUF", "--format", "awq"], 2, "GGUF files only"),
        (["o/Tiny-GGUF", "--group-size", "32"], 2, "add --format awq"),
        (["o/Tiny-GGUF", "--limit-rate", "fast"], 2, "is not a size"),
        (["o/Tiny-GGUF", "no/such/folder/x.gguf"], 2, "does not exist"),
    ],
)
def test_what_cannot_be_had(qwenctl, hub, ready, models, words, code, message):
    hub.add("o/pickles", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."})
    ran = qwenctl("pull", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_flaky_hub_is_asked_again(qwenctl, hub, ready, models):
    answers = iter([Fault(status=503), None, None, *[Fault(cut_after_bytes=1000)] * 5])
    hub.fault = lambda exchange: next(answers, None)
    assert qwenctl("pull", "o/Tiny-GGUF:q6_k", "six").code == 0
    assert (models / "six-00001-of-00002.gguf").read_bytes() == SMALL


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_pull_goes_on(hub, home, models, number):
    """Killed in the middle; the same command completes it, without fetching all of it again."""
    data = bytes(range(256)) * 40_000  # 10 MB, at 8 MB/s
    hub.add("o/big-GGUF", {"big-Q8_0.gguf": data})
    command = [sys.executable, "-m", "qwenctl", "pull", "o/big-GGUF", "--limit-rate", "5MB"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    journal = models / "big-q8_0.gguf.journal"
    deadline_s = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert ("the same command resumes" in stderr) == (number == signal.SIGINT)
    assert not (models / "big-q8_0.gguf").exists()
    done = subprocess.run(command[:-2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "are here" in done.stderr
    assert (models / "big-q8_0.gguf").read_bytes() == data
    assert hub.served["o/big-GGUF/big-Q8_0.gguf"] < 2 * len(data)


def test_a_stopped_conversion_finds_its_small_files_and_goes_on(hub, checkpoint, tiny_moe_folder, models, tmp_path):
    command = [sys.executable, "-m", "qwenctl", "pull", "o/Tiny", "--quant", "q8_0"]
    process = subprocess.Popen([*command, "--limit-rate", "2MB"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    journal = models / "tiny-q8_0.gguf.journal"
    deadline_s = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (models / "tiny-q8_0.gguf").exists()
    source = models / ".tiny-q8_0.gguf.source"
    assert (source / "config.json").is_file()
    assert not any("safetensors" in path.name and "index" not in path.name for path in source.iterdir())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "are done" in done.stderr
    assert not source.exists()
    local = [sys.executable, "-m", "qwenctl", "convert", tiny_moe_folder, tmp_path / "local.gguf", "--type", "q8_0"]
    assert subprocess.run(local, capture_output=True, check=False).returncode == 0
    pulled = read_digests(models / "tiny-q8_0.gguf").parts[1:]
    assert pulled == read_digests(tmp_path / "local.gguf").parts[1:]


def test_a_terminal_shows_all_of_it_and_each_file_under_way(hub, ready, models):
    """Whole amounts, rate and time left; a line for each part while it is fetched; nothing of it stays."""
    big = bytes(range(256)) * 20_000  # 5 MB
    names = [f"big-Q6_K-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.add("o/big-GGUF", {name: big + bytes(number) for number, name in enumerate(names)})
    command = [sys.executable, "-m", "qwenctl", "pull", "o/big-GGUF", "--limit-rate", "4MB"]
    with Terminal(command, columns=140, env={"TERM": "xterm-256color"}) as terminal:
        terminal.wait_for("  big-q6_k-00002-of-00002.gguf")
        text = terminal.wait_for("fetching")
        assert "of 10.2 MB" in text
        terminal.wait_for("of 5.1 MB")  # a part's line stands there before its amount does
        terminal.wait_for("MB/s")
        terminal.wait_for("0 of 2 files")
        assert terminal.wait_exit() == 0
        assert str(models / "big-q6_k-00001-of-00002.gguf") in terminal.text
        assert "fetching" not in "\n".join(terminal.screen.display)
