"""Parts of files from a hub that redirects, wants tokens, is busy, breaks off and lies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from qwenctl.errors import HubAccessRefused, HubUnreachable, InvalidRequest, RemoteFileChanged
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.rate_limit import RateLimit
from qwenctl.services.hub.remote_file import RemoteFile
from tests.hub_server.faults import Exchange, Fault
from tests.hub_server.remote_files import remote_files
from tests.hub_server.server import HubServer

BIG = random.Random(5).randbytes(3_000_000)
SMALL = b'{"model_type": "qwen3"}'
OTHER_HASH = "f" * 64


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(tokens={"hf_good": {"o/gated"}, "hf_stranger": set()}) as hub:
        hub.add("o/m", {"m.gguf": BIG, "config.json": SMALL})
        hub.add("o/gated", {"m.gguf": BIG[:1000]}, gated="manual")
        yield hub


class Pulling:
    """A client that waits for nothing and remembers what it would have waited for."""

    def __init__(self, hub: HubServer, token: str | None = None, **options: object) -> None:
        self.notices: list[str] = []
        self.slept: list[float] = []
        self.hub = hub
        policy = RetryPolicy(n_attempts=4, first_s=1.0, most_s=8.0)
        settings = ClientOptions(hub.url, token, retry=policy, **options)  # type: ignore[arg-type]
        self.client = RangeClient(settings, on_wait=self.notices.append, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)

    def remote(self, path: str = "m.gguf", repo_id: str = "o/m") -> RemoteFile:
        return next(file for file in remote_files(self.hub.url, self.hub.repositories[repo_id]) if file.path == path)

    def read(self, remote: RemoteFile, start: int = 10, n_bytes: int = 2_000_000) -> bytes:
        return b"".join(self.client.read(remote, start, n_bytes))


def storage_only(fault: Fault, times: int = 1_000_000) -> object:
    left = [times]

    def decide(exchange: Exchange) -> Fault | None:
        if exchange.server != "storage" or left[0] == 0:
            return None
        left[0] -= 1
        return fault

    return decide


def test_parts_of_large_and_small_files(hub: HubServer) -> None:
    pulling = Pulling(hub)
    assert pulling.read(pulling.remote()) == BIG[10:2_000_010]
    assert pulling.read(pulling.remote(), 0, len(BIG)) == BIG
    assert pulling.read(pulling.remote("config.json"), 3, 7) == SMALL[3:10]
    assert pulling.read(pulling.remote(), 5, 0) == b""
    out = bytearray(100)
    pulling.client.read_into(pulling.remote(), 77, memoryview(out))
    assert out == BIG[77:177]
    assert pulling.notices == []


def test_a_part_that_the_file_does_not_have(hub: HubServer) -> None:
    pulling = Pulling(hub)
    with pytest.raises(ValueError, match="has no"):
        pulling.read(pulling.remote(), len(BIG) - 1, 2)


def test_the_hub_is_asked_once_for_the_place_in_storage(hub: HubServer) -> None:
    pulling = Pulling(hub)
    for start in range(0, 1000, 100):
        pulling.read(pulling.remote(), start, 50)
    assert sum(exchange.server == "hub" for exchange in hub.exchanges) == 1
    hub.expire_signatures()
    assert pulling.read(pulling.remote(), 0, 50) == BIG[:50]
    assert sum(exchange.server == "hub" for exchange in hub.exchanges) == 2


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: HubServer) -> None:
    pulling = Pulling(hub, "hf_good")
    assert pulling.read(pulling.remote(repo_id="o/gated"), 0, 1000) == BIG[:1000]
    assert [(exchange.server, exchange.has_token) for exchange in hub.exchanges] == [("hub", True), ("storage", False)]
    assert hub.tokens_at_storage == []


@pytest.mark.parametrize(("token", "word"), [(None, "gated"), ("hf_stranger", "gated"), ("hf_wrong", "token")])
def test_no_access_ends_at_once_and_says_what_to_do(hub: HubServer, token: str | None, word: str) -> None:
    pulling = Pulling(hub, token)
    with pytest.raises(HubAccessRefused, match=word) as caught:
        pulling.read(pulling.remote(repo_id="o/gated"), 0, 10)
    assert "HF_TOKEN" in (caught.value.hint or "")
    assert "hf_" not in caught.value.message
    assert pulling.slept == []


def test_a_file_that_is_gone(hub: HubServer) -> None:
    pulling = Pulling(hub)
    remote = pulling.remote()
    hub.repositories["o/m"].commits.clear()
    with pytest.raises(RemoteFileChanged, match=r"not on .* any more"):
        pulling.read(remote)


def test_broken_connections_go_on_where_they_broke(hub: HubServer) -> None:
    hub.fault = storage_only(Fault(cut_after_bytes=300_000))  # type: ignore[assignment]
    pulling = Pulling(hub)
    assert pulling.read(pulling.remote()) == BIG[10:2_000_010]
    assert hub.served["o/m/m.gguf"] == 2_000_000
    assert len(pulling.notices) == 6, "more often than patience lasts: bytes that come start the count anew"
    assert max(pulling.slept) <= 1.0


def test_silence_ends(hub: HubServer) -> None:
    hub.fault = storage_only(Fault(stall_after_bytes=100_000, stall_s=20.0), times=1)  # type: ignore[assignment]
    pulling = Pulling(hub, silence_s=0.2)
    assert pulling.read(pulling.remote()) == BIG[10:2_000_010]
    assert "timed out" in pulling.notices[0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_hub_in_trouble_is_asked_again_later_and_later(hub: HubServer, status: int) -> None:
    hub.fault = lambda _: Fault(status=status)
    pulling = Pulling(hub)
    with pytest.raises(HubUnreachable, match=str(status)):
        pulling.read(pulling.remote())
    assert len(pulling.slept) == 3
    assert all(low <= seconds <= 2 * low for low, seconds in zip((0.5, 1, 2), pulling.slept, strict=True))


def test_a_busy_hub_is_left_alone_as_long_as_it_asks(hub: HubServer) -> None:
    answers = iter([Fault(status=429, headers={"Retry-After": "17"})])
    hub.fault = lambda _: next(answers, None)
    pulling = Pulling(hub)
    assert pulling.read(pulling.remote()) == BIG[10:2_000_010]
    assert pulling.slept[0] == 17.0
    assert "429" in pulling.notices[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(html=True), "web page"),
        (Fault(ignore_range=True), "whole file"),
        (Fault(change=lambda body, _: body[:-1]), "instead of 2,000,000"),
        (Fault(change=lambda body, _: body + b"x"), "instead of 2,000,000"),
        (Fault(headers={"Content-Range": None}), "does not say which part"),
        (Fault(headers={"Content-Range": "bytes 0-1999999/3000000"}), "sends bytes 0-1999999 instead of 10-2000009"),
        (Fault(headers={"Content-Encoding": "gzip"}), "gzip"),
    ],
)
def test_answers_that_are_not_the_part_asked_for(hub: HubServer, fault: Fault, words: str) -> None:
    hub.fault = storage_only(fault)  # type: ignore[assignment]
    pulling = Pulling(hub)
    with pytest.raises(HubUnreachable, match=words):
        pulling.read(pulling.remote())
    assert len(pulling.slept) == 2, "asked again, but not for long"
    hub.fault = storage_only(fault, times=1)  # type: ignore[assignment]
    assert pulling.read(pulling.remote()) == BIG[10:2_000_010]


def test_small_files_without_a_length_are_taken_only_if_they_end_where_they_should(hub: HubServer) -> None:
    """The hub sends files that compress well in chunks, or until it closes the connection."""
    unmeasured = {"Content-Length": None, "Connection": "close"}
    pulling = Pulling(hub)
    hub.fault = lambda exchange: Fault(headers=unmeasured, ignore_range=True)
    assert pulling.read(pulling.remote("config.json"), 0, len(SMALL)) == SMALL
    hub.fault = lambda exchange: Fault(headers=unmeasured, ignore_range=True, change=lambda body, _: body + b"x")
    with pytest.raises(HubUnreachable, match="more bytes"):
        pulling.read(pulling.remote("config.json"), 0, len(SMALL))
    hub.fault = lambda exchange: Fault(headers=unmeasured, ignore_range=True, change=lambda body, _: body[:-1])
    with pytest.raises(HubUnreachable):
        pulling.read(pulling.remote("config.json"), 0, len(SMALL))
    assert any("ended 1 bytes too soon" in notice for notice in pulling.notices)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-Linked-Etag": f'"{OTHER_HASH}"'}, "ETag"),
        ({"X-Linked-Size": "2999999"}, "bytes"),
        ({"X-Repo-Commit": "0" * 40}, "commit"),
    ],
)
def test_another_file_than_the_one_that_was_pinned(hub: HubServer, headers: dict[str, str], words: str) -> None:
    hub.fault = lambda exchange: Fault(headers=headers) if exchange.server == "hub" else None
    pulling = Pulling(hub)
    with pytest.raises(RemoteFileChanged, match=words):
        pulling.read(pulling.remote())
    assert hub.served.total() == 0


@pytest.mark.parametrize("headers", [{"ETag": f'"{OTHER_HASH}"'}, {"Content-Range": "bytes 10-2000009/3000001"}])
def test_storage_that_has_another_file(hub: HubServer, headers: dict[str, str]) -> None:
    hub.fault = storage_only(Fault(headers=headers))  # type: ignore[assignment]
    pulling = Pulling(hub)
    with pytest.raises(RemoteFileChanged):
        pulling.read(pulling.remote())


def test_an_etag_in_storage_that_changes_between_two_parts(hub: HubServer) -> None:
    pulling = Pulling(hub)
    pulling.read(pulling.remote(), 0, 10)
    hub.fault = storage_only(Fault(headers={"ETag": '"another-0"'}), times=1)  # type: ignore[assignment]
    assert pulling.read(pulling.remote(), 10, 10) == BIG[10:20]
    assert "ETag in storage" in pulling.notices[0]


def test_a_mirror_s_own_etags_are_no_reason_to_refuse(hub: HubServer) -> None:
    hub.fault = lambda exchange: Fault(headers={"X-Linked-Etag": '"mirror-17"', "X-Linked-Size": None})
    pulling = Pulling(hub)
    assert pulling.read(pulling.remote(), 0, 10) == BIG[:10]


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/x", "file:///etc/passwd", ""])
def test_redirects_that_lead_nowhere(hub: HubServer, location: str) -> None:
    hub.fault = lambda exchange: Fault(headers={"Location": location})
    pulling = Pulling(hub)
    with pytest.raises(HubUnreachable):
        pulling.read(pulling.remote())


def test_nobody_there() -> None:
    with HubServer() as hub:
        hub.add("o/m", {"m.gguf": BIG})
        pulling = Pulling(hub)
        remote = pulling.remote()
    with pytest.raises(HubUnreachable, match="refused") as caught:
        pulling.read(remote)
    assert "0x" not in caught.value.message, "no objects of a library in a message"


def test_an_endpoint_that_is_none() -> None:
    with pytest.raises(InvalidRequest, match="no address of a hub"):
        ClientOptions("hub.example")


def test_the_limit_counts_every_byte(hub: HubServer) -> None:
    slept = list[float]()
    limit = RateLimit(1e6, clock=lambda: 0.0, sleep=slept.append)
    client = RangeClient(ClientOptions(hub.url), limit)
    remote = remote_files(hub.url, hub.repositories["o/m"])[0]
    assert b"".join(client.read(remote, 0, 1_000_000)) == BIG[:1_000_000]
    assert max(slept) == pytest.approx(1.0)


def test_close_ends_what_another_thread_reads(hub: HubServer) -> None:
    hub.fault = storage_only(Fault(stall_after_bytes=100_000, stall_s=20.0))  # type: ignore[assignment]
    pulling = Pulling(hub)
    caught: list[BaseException] = []

    def read() -> None:
        try:
            pulling.read(pulling.remote())
        except HubUnreachable as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while hub.served.total() < 100_000:
        time.sleep(0.005)
    pulling.client.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "stopped" in str(caught[0])
