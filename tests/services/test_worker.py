"""Two workers on loopback: a model that neither can hold, clients and processes that die, versions, budgets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from qwenctl.errors import InvalidRequest, ModelLoadFailed
from qwenctl.services.machine_devices import machine_devices
from qwenctl.services.rpc_connection import RpcConnection
from qwenctl.services.rpc_servers import RPC_VERSION, greet
from qwenctl.services.tcp_keepalive import keep_all_alive
from qwenctl.services.worker_front import WorkerFront
from qwenctl.services.worker_identity import (
    HELLO,
    PINNED_BUILD,
    WATCH,
    GgmlBuild,
    WorkerIdentity,
    installed_build,
    parse_identity,
)
from qwenctl.services.worker_memory import Room, shares, within_budget
from qwenctl.services.worker_process import WorkerJob
from qwenctl.services.worker_watch import WorkerWatch
from tests.moe.offload_runs import large_gguf
from tests.services.rpc_server import answering

MIB = 1 << 20
JOB = WorkerJob(None, None, 1)


@contextmanager
def worker(job: WorkerJob = JOB) -> Iterator[tuple[WorkerFront, list[str]]]:
    """A worker whose front is in this process, and what it notes."""
    notes: list[str] = []
    with closing(WorkerFront("127.0.0.1", 0, job, notes.append)) as front:
        thread = threading.Thread(target=_serve, args=(front,), daemon=True)
        thread.start()
        yield front, notes
        front.close()
        thread.join()


def _serve(front: WorkerFront) -> None:
    try:
        front.serve()
    except OSError:  # closed
        return


def ask(address: str, line: bytes) -> socket.socket:
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), 20)
    connection.sendall(line)
    return connection


# --- values ----------------------------------------------------------------------------------------------------------


def test_an_identity_survives_its_line() -> None:
    identity = WorkerIdentity("0.1", "7.0.0", GgmlBuild("0.25.3", "0c1e570"), True)
    assert parse_identity(identity.line()) == identity
    for line in (
        b"",
        b"alive\n",
        b"[]",
        b"{}",
        b"HTTP/1.1 400 Bad Request\r\n",
        b'{"worker": "other"}',
        b"\xff\n",
        b"1",
    ):
        assert parse_identity(line) is None
    assert parse_identity(b'{"worker": "qwenctl", "version": "1", "rpc": "7", "ggml": null, "busy": false}') is None


def test_builds_agree_as_far_as_they_are_known() -> None:
    build = GgmlBuild("0.25.3", "0c1e57098")
    assert build.agrees(GgmlBuild("0.25.3", "0c1e570"))
    assert build.agrees(GgmlBuild("0.25.3", "unknown"))
    assert not build.agrees(GgmlBuild("0.25.3", "0c1e571"))
    assert not build.agrees(GgmlBuild("0.25.4", "0c1e570"))
    assert installed_build().agrees(PINNED_BUILD)


def test_what_is_left_of_a_budget() -> None:
    start = Room(10 * MIB, 100 * MIB, 7)
    assert within_budget(start, start, None) == start
    assert within_budget(start, start, 4 * MIB) == Room(4 * MIB, 4 * MIB, 7)
    taken = Room(9 * MIB, 100 * MIB, 7 + 3 * MIB)
    assert within_budget(taken, start, 4 * MIB).free == MIB
    assert within_budget(Room(MIB, 100 * MIB, 7), start, 4 * MIB).free == MIB
    assert within_budget(Room(MIB, 100 * MIB, 7 + 5 * MIB), start, 4 * MIB).free == 0
    assert shares([Room(30, 0, 0), Room(10, 0, 0)], 100) == [75, 25]
    assert shares([start], None) == [None]


# --- a worker --------------------------------------------------------------------------------------------------------


def test_a_worker_says_who_it_is_and_what_it_has() -> None:
    with worker(WorkerJob(("cpu",), 300 * MIB, 1)) as (front, _):
        identity = greet(front.address)
        assert identity is not None
        assert (identity.rpc, identity.busy) == (".".join(map(str, RPC_VERSION)), False)
        (device, *others) = machine_devices([front.address])
        assert device.name == f"RPC0[{front.address}]"
        assert 299 * MIB < device.free_bytes <= device.total_bytes == 300 * MIB
        assert all(not other.name.startswith("RPC") for other in others)
        with ask(front.address, WATCH) as connection:
            assert connection.recv(6) == connection.recv(6) == b"alive\n"


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="no device CUDA9; there are: CPU"):
        WorkerFront("127.0.0.1", 0, WorkerJob(("CUDA9",), None, 1), lambda _: None)


def test_a_second_client_is_told_that_the_worker_is_busy() -> None:
    with worker() as (front, _):
        with RpcConnection(front.address, 20), pytest.raises(ModelLoadFailed, match="serves another program"):
            greet(front.address)
        assert greet(front.address)


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"", b"q\n", b"qwenctl dance\n", b"\x0e" + b"\xff" * 40]
)
def test_what_is_no_client_does_no_harm(nonsense: bytes) -> None:
    with worker() as (front, _):
        with ask(front.address, nonsense) as connection:
            with suppress(OSError):  # it may have hung up by now
                connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
        assert greet(front.address)


def test_the_rest_of_an_answer_does_not_wait_for_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml sends length and body apart: with Nagle's algorithm, the body waits for a delayed acknowledgement, 40 ms."""
    served: list[int] = []

    def serve_rpc(_front: WorkerFront, client: socket.socket, _name: str) -> None:
        served.append(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(WorkerFront, "_serve_rpc", serve_rpc)
    with worker() as (front, _), ask(front.address, b"\x0e") as connection, suppress(ConnectionResetError):
        connection.recv(1)
    assert len(served) == 1
    assert all(served)


def test_a_process_that_dies_is_replaced() -> None:
    with worker() as (front, notes):
        with RpcConnection(front.address, 20) as connection:
            front.process._process.send_signal(signal.SIGKILL)
            with pytest.raises(OSError):
                connection.device_count()
        assert greet(front.address)
        assert machine_devices([front.address])
    assert any("ended while it served" in note and "SIGKILL" in note for note in notes)


# --- what a client notices -------------------------------------------------------------------------------------------


def test_a_worker_of_another_build_is_refused() -> None:
    other = WorkerIdentity("9.9", "7.0.0", GgmlBuild("0.99.0", "abcdef123"), False)
    with (
        answering(lambda client: client.recv(len(HELLO)) and client.sendall(other.line())) as address,
        pytest.raises(ModelLoadFailed, match=r"has ggml 0\.99\.0 \(abcdef123\); this machine has 0\.25\.3") as failed,
    ):
        greet(address)
    assert "there it is 9.9" in (failed.value.hint or "")


def test_a_server_of_another_protocol_is_refused() -> None:
    def stock(client: socket.socket) -> None:
        """llama.cpp's rpc-server with an operation more."""
        if client.recv(1) == b"\x0e":
            client.recv(32)
            client.sendall((28).to_bytes(8, "little") + bytes((7, 0, 1)) + bytes(25))

    with answering(stock) as address, pytest.raises(ModelLoadFailed, match=r"speaks version 7\.0\.1 .* speaks 7\.0\.0"):
        greet(address)


def lost_by(behave: Callable[[socket.socket], object]) -> str:
    """Return what a watch with a short patience says of something that behaves so."""
    said: list[str] = []
    called = threading.Event()

    def on_lost(endpoint: str, reason: str) -> None:
        said.append(f"{endpoint} {reason}")
        called.set()

    with answering(behave) as address:
        watch = WorkerWatch([address], on_lost, limit_s=0.3)
        assert called.wait(20)
        watch.close()
        assert said[0].startswith(address)
    assert len(said) == 1
    return said[0]


def test_silence_and_the_end_of_a_worker_are_noticed() -> None:
    silence = threading.Event()
    assert "has not answered for 0.3 s" in lost_by(lambda client: silence.wait(2))
    assert "was lost: it ended" in lost_by(lambda client: client.recv(len(WATCH)) and client.sendall(b"alive\n"))
    said: list[str] = []
    with worker() as (front, _):
        watch = WorkerWatch([front.address], lambda *lost: said.append(lost[0]))
        assert greet(front.address)
        watch.close()
    assert said == []


def test_every_tcp_connection_of_a_process_is_kept_alive() -> None:
    with answering(lambda client: client.recv(1)) as address, ask(address, b"") as connection:
        assert not connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        keep_all_alive()
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
        connection.sendall(b"x")
        assert connection.fileno() >= 0


# --- a model on two workers ------------------------------------------------------------------------------------------


def test_a_model_larger_than_either_budget_says_the_same(tmp_path: Path) -> None:
    path = large_gguf(tmp_path / "model.gguf", n_layers=8, n_experts=32)
    budget = 190 * MIB
    assert path.stat().st_size > budget
    local, split = tmp_path / "local.jsonl", tmp_path / "split.jsonl"
    words = [sys.executable, "-m", "tests.services.device_run", str(path), "[{}]"]
    with worker(WorkerJob(None, budget, 1)) as (one, _), worker(WorkerJob(None, budget, 1)) as (two, _):
        for out, used in ((local, []), (split, [one.address, two.address])):
            with out.open("wb") as stream:
                subprocess.run([*words, *used], stdout=stream, stderr=subprocess.DEVNULL, check=True)
    here, there = json.loads(local.read_text()), json.loads(split.read_text())
    assert there["devices"] == ["RPC0", "RPC1"]
    assert all(there["counts"])
    assert len(there["cpu_experts"]) < 8
    assert np.array_equal(here["logits"], there["logits"])
