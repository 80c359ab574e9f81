"""A checkpoint on the loopback hub becomes the file that `convert` makes of it on the disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quant import stream_run, stream_spans
from quant.budget import Budget
from quant.conversion_plan import read_source
from quant.durable_files import DurableFiles
from quant.errors import CheckpointError, NotEnoughDisk, SafetensorsError
from quant.stream_run import StreamOptions
from qwenctl.errors import QwenctlError, RemoteFileChanged
from qwenctl.services import remote_checkpoint as remote_checkpoint_module
from qwenctl.services.conversion import convert, plan, write_plan
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.remote_checkpoint import LocalShard, RemoteCheckpoint, read_remote_checkpoint
from qwenctl.services.remote_conversion import convert_remote, plan_remote
from qwenctl.services.type_choice import TypeRequest
from tests.hub_server.faults import Exchange, Fault
from tests.hub_server.server import HubServer
from tests.services.remote_checkpoints import REPO, add_checkpoint, fail_from_first_mark, remote_checkpoint, snapshot_of
from tests.tiny_checkpoint import TinyModel, write_checkpoint

MODEL = TinyModel(n_shards=3, n_layers=2)
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), MODEL)


@pytest.fixture(autouse=True)
def _small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 128 << 10)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def client(hub: HubServer) -> Iterator[RangeClient]:
    options = ClientOptions(hub.url, retry=RetryPolicy(n_attempts=3, first_s=0.01, most_s=0.02))
    with RangeClient(options) as found:
        yield found


@pytest.fixture
def checkpoint(hub: HubServer, client: RangeClient, folder: Path, tmp_path: Path) -> RemoteCheckpoint:
    return remote_checkpoint(hub, client, folder, tmp_path / "small", add_checkpoint(hub, folder))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetched(hub: HubServer) -> dict[str, int]:
    return {name.rpartition("/")[2]: n for name, n in hub.served.items()}


@pytest.mark.parametrize(
    "request_",
    [TypeRequest("q4_k_m+"), TypeRequest("iq4_xs", quality="exact"), TypeRequest(budget=Budget(bits=5.0))],
    ids=["ours", "exact", "budget"],
)
def test_the_same_bytes_as_convert(
    checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path, request_: TypeRequest
) -> None:
    quality = request_.quality
    local = plan(snapshot_of(folder, tmp_path), request_, n_threads=2)
    write_plan(local.plan, tmp_path / "disk.gguf", quality=quality, n_threads=2)
    planned = plan_remote(checkpoint, tmp_path / "hub.gguf", request_, n_threads=2, measure=False)
    assert planned.chosen.plan.total_bytes == local.plan.total_bytes == planned.disk_bytes
    result = convert_remote(planned, tmp_path / "hub.gguf", StreamOptions(2))
    assert digest(tmp_path / "hub.gguf") == digest(tmp_path / "disk.gguf")
    assert result.n_bytes == (tmp_path / "hub.gguf").stat().st_size


def test_headers_are_all_that_planning_fetches(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_checkpoint_module, "_BEGINNING_BYTES", 1000)  # shorter than the headers
    found, local = read_remote_checkpoint(checkpoint)[0], read_source(folder)
    assert found.shapes == local.shapes
    lengths = {path.name: path.read_bytes()[:8] for path in folder.glob("*.safetensors")}
    assert fetched(hub) == {name: 8 + int.from_bytes(data, "little") for name, data in lengths.items()}


def test_what_is_planned_is_what_is_fetched(hub: HubServer, checkpoint: RemoteCheckpoint, tmp_path: Path) -> None:
    planned = plan_remote(checkpoint, tmp_path / "m.gguf", TypeRequest("q8_0"), measure=False)
    before = hub.served.total()
    assert planned.n_bytes_to_fetch == sum(shard.size_bytes for shard in checkpoint.shards.values())
    convert_remote(planned, tmp_path / "m.gguf", StreamOptions(2))
    assert hub.served.total() - before == planned.n_bytes_to_fetch


def test_a_measured_link_gives_a_time(checkpoint: RemoteCheckpoint, tmp_path: Path) -> None:
    planned = plan_remote(checkpoint, tmp_path / "m.gguf", TypeRequest("q4_k_m"))
    assert planned.link_bytes_per_s
    assert planned.seconds
    assert planned.seconds >= planned.n_bytes_to_fetch / planned.link_bytes_per_s


def test_a_shard_that_is_here_already_is_not_fetched(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path
) -> None:
    local = LocalShard(folder / SHARD, checkpoint.shards[SHARD].sha256)
    checkpoint = replace(checkpoint, shards={**checkpoint.shards, SHARD: local})
    planned = plan_remote(checkpoint, tmp_path / "m.gguf", TypeRequest("q8_0"), measure=False)
    convert_remote(planned, tmp_path / "m.gguf", StreamOptions(2))
    convert(snapshot_of(folder, tmp_path), tmp_path / "disk.gguf", "q8_0", n_threads=2)
    assert digest(tmp_path / "m.gguf") == digest(tmp_path / "disk.gguf")
    assert SHARD not in fetched(hub)
    assert planned.n_bytes_to_fetch == sum(s.size_bytes for s in checkpoint.shards.values()) - local.size_bytes


def test_a_hub_that_stops_answering_is_gone_on_with(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_run, "SYNC_S", 0.0)
    out = tmp_path / "m.gguf"
    planned = plan_remote(checkpoint, out, TypeRequest("q8_0"), measure=False)
    fail_from_first_mark(hub, SHARD, tmp_path / "m.gguf.journal")
    with pytest.raises(QwenctlError, match=SHARD):
        convert_remote(planned, out, StreamOptions(2))
    assert not out.exists()
    hub.fault = lambda _: None
    again = plan_remote(checkpoint, out, TypeRequest("q8_0"), measure=False)
    assert again.n_bytes_fetched_before > 0
    assert again.n_bytes_to_fetch + again.n_bytes_fetched_before == planned.n_bytes_to_fetch
    assert convert_remote(again, out, StreamOptions(2)).n_weights_resumed > 0
    convert(snapshot_of(folder, tmp_path), tmp_path / "disk.gguf", "q8_0", n_threads=2)
    assert digest(out) == digest(tmp_path / "disk.gguf")


def test_a_file_that_changes_on_the_hub_is_named(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.gguf"
    planned = plan_remote(checkpoint, out, TypeRequest("q8_0"), measure=False)
    hub.expire_signatures()  # so that the hub is asked where the file is
    other = {"X-Linked-Etag": f'"{"0" * 64}"', "ETag": f'"{"0" * 64}"'}
    hub.fault = lambda exchange: Fault(headers=other) if SHARD in exchange.file and exchange.server == "hub" else None
    with pytest.raises(RemoteFileChanged, match=SHARD):
        convert_remote(planned, out, StreamOptions(2))
    hub.fault = lambda _: None
    convert_remote(plan_remote(checkpoint, out, TypeRequest("q8_0"), measure=False), out, StreamOptions(2))
    convert(snapshot_of(folder, tmp_path), tmp_path / "disk.gguf", "q8_0", n_threads=2)
    assert digest(out) == digest(tmp_path / "disk.gguf")


def test_a_damaged_range_and_a_busy_hub_do_not_show(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path
) -> None:
    n_damaged = 0

    def fault(exchange: Exchange) -> Fault | None:
        nonlocal n_damaged
        if exchange.number % 5 == 0:
            return Fault(cut_after_bytes=10_000)
        if SHARD in exchange.file and exchange.server == "storage" and exchange.offset_bytes > 50_000 and not n_damaged:
            n_damaged += 1
            return Fault(change=lambda data, _: bytes([data[0] ^ 1]) + data[1:])
        return None

    planned = plan_remote(checkpoint, tmp_path / "m.gguf", TypeRequest("q8_0"), measure=False)
    hub.fault = fault
    convert_remote(planned, tmp_path / "m.gguf", StreamOptions(2))
    convert(snapshot_of(folder, tmp_path), tmp_path / "disk.gguf", "q8_0", n_threads=2)
    assert n_damaged == 1
    assert digest(tmp_path / "m.gguf") == digest(tmp_path / "disk.gguf")


def test_a_disk_that_is_too_small_is_refused_before_weights_are_fetched(
    hub: HubServer, checkpoint: RemoteCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DurableFiles, "free_bytes", lambda *_: 1 << 20)
    with pytest.raises(NotEnoughDisk):
        plan_remote(checkpoint, tmp_path / "m.gguf", TypeRequest("q8_0"))
    assert max(fetched(hub).values()) <= 64 << 10


def test_a_shard_without_a_hash_is_refused(checkpoint: RemoteCheckpoint, tmp_path: Path, folder: Path) -> None:
    unknown = replace(checkpoint, shards={**checkpoint.shards, SHARD: LocalShard(folder / SHARD, None)})
    with pytest.raises(CheckpointError, match=f"no SHA-256 of {SHARD}"):
        plan_remote(unknown, tmp_path / "m.gguf", TypeRequest("q8_0"), measure=False)


def test_what_is_wrong_with_a_checkpoint_is_said_as_on_the_disk(
    hub: HubServer, client: RangeClient, folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    data = bytearray((broken / SHARD).read_bytes())
    data[8] = ord("[")
    (broken / SHARD).write_bytes(data)
    found = remote_checkpoint(hub, client, broken, tmp_path / "small", add_checkpoint(hub, broken))
    with pytest.raises(SafetensorsError, match="header begins with b'\\['"):
        read_remote_checkpoint(found)
    index = json.loads((found.folder / "model.safetensors.index.json").read_text())
    shards = {name: shard for name, shard in found.shards.items() if name != SHARD}
    assert SHARD in index["weight_map"].values()
    with pytest.raises(CheckpointError, match="1 of 3 shards are missing"):
        read_remote_checkpoint(replace(found, shards=shards))
    assert found.repo_id == REPO
