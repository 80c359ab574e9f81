"""A checkpoint on the loopback hub becomes the AWQ or GPTQ folder that `convert --format` makes of it on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant import stream_run, stream_spans
from quant.durable_files import DurableFiles
from quant.errors import NotEnoughDisk
from quant.stream_run import StreamOptions
from qwenctl.errors import QwenctlError
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.remote_checkpoint import RemoteCheckpoint
from qwenctl.services.remote_export import convert_remote_export, plan_remote_export
from qwenctl.services.safetensors_export import ExportRequest, FormatName, plan, write_plan
from tests.hub_server.server import HubServer
from tests.services.remote_checkpoints import add_checkpoint, fail_from_first_mark, remote_checkpoint
from tests.tiny_checkpoint import TinyModel, write_checkpoint

MODEL = TinyModel(n_shards=2, n_layers=1, n_experts=4)
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), MODEL)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def checkpoint(hub: HubServer, folder: Path, tmp_path: Path) -> Iterator[RemoteCheckpoint]:
    commit = add_checkpoint(hub, folder)
    retry = RetryPolicy(n_attempts=3, first_s=0.01, most_s=0.02)
    with RangeClient(ClientOptions(hub.url, retry=retry)) as client:
        yield remote_checkpoint(hub, client, folder, tmp_path / "small", commit)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_the_same_folder_as_convert(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path, kind: FormatName
) -> None:
    request = ExportRequest(folder, kind, group_size=64)
    write_plan(plan(request), tmp_path / "disk", n_threads=2)
    planned = plan_remote_export(checkpoint, tmp_path / "hub", request)
    before = hub.served.total()
    result = convert_remote_export(planned, tmp_path / "hub", StreamOptions(2))
    assert digests(tmp_path / "hub") == digests(tmp_path / "disk")
    assert result.n_bytes == planned.disk_bytes
    sampled = hub.served.total() - before - planned.n_bytes_to_fetch
    assert 0 < sampled <= 1.2 * planned.n_bytes_sampled


def test_a_hub_that_stops_answering_is_gone_on_with(
    hub: HubServer, checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_run, "SYNC_S", 0.0)
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 128 << 10)
    request = ExportRequest(folder, "gptq", group_size=64)
    planned = plan_remote_export(checkpoint, tmp_path / "hub", request)
    fail_from_first_mark(hub, SHARD, tmp_path / "hub.journal")
    with pytest.raises(QwenctlError, match=SHARD):
        convert_remote_export(planned, tmp_path / "hub", StreamOptions(2))
    hub.fault = lambda _: None
    again = plan_remote_export(checkpoint, tmp_path / "hub", request)
    assert again.n_bytes_fetched_before > 0
    assert again.n_bytes_to_fetch + again.n_bytes_fetched_before == planned.n_bytes_to_fetch
    assert convert_remote_export(again, tmp_path / "hub", StreamOptions(2)).n_weights_resumed > 0
    write_plan(plan(request), tmp_path / "disk", n_threads=2)
    assert digests(tmp_path / "hub") == digests(tmp_path / "disk")


def test_a_disk_that_is_too_small_is_refused(
    checkpoint: RemoteCheckpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DurableFiles, "free_bytes", lambda *_: 1 << 20)
    with pytest.raises(NotEnoughDisk):
        plan_remote_export(checkpoint, tmp_path / "hub", ExportRequest(folder, "awq"))
