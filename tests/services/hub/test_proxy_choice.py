"""Proxies and certificates, as the usual variables name them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.proxy_choice import proxy_for
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.settings import NetworkSettings
from tests.hub_server.remote_files import remote_files
from tests.hub_server.repository import HubRepository
from tests.hub_server.server import HubServer


def network(**variables: str) -> NetworkSettings:
    return NetworkSettings.from_environment(variables)


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://hub.example/x", None),
        ({"HTTPS_PROXY": "http://p:3128"}, "https://hub.example/x", "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://hub.example/x", None),
        ({"HTTPS_PROXY": "p:3128"}, "https://hub.example/x", "http://p:3128"),
        ({"https_proxy": "http://small", "HTTPS_PROXY": "http://large"}, "https://hub.example/x", "http://small"),
        ({"ALL_PROXY": "http://p"}, "https://hub.example/x", "http://p"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "*"}, "https://hub.example/x", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "other, .example"}, "https://hub.example/x", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "b.example"}, "https://hub.example/x", "http://p"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "hub.example:8443"}, "https://hub.example/x", "http://p"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "hub.example:8443"}, "https://hub.example:8443/x", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3/x", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "::1"}, "http://[::1]:80/x", None),
    ],
)
def test_which_proxy(variables: dict[str, str], url: str, proxy: str | None) -> None:
    assert proxy_for(network(**variables), url) == proxy


def test_a_proxy_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="socks5"):
        proxy_for(network(ALL_PROXY="socks5://p:1080"), "https://hub.example/x")


def test_a_proxy_s_password_is_not_shown() -> None:
    assert "secret" not in repr(network(ALL_PROXY="http://me:secret@p:3128"))
    assert "secret" not in repr(ClientOptions("https://hub.example", token="secret"))


def test_a_file_of_certificates_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    options = ClientOptions("https://127.0.0.1:1", network=network(SSL_CERT_FILE=str(tmp_path / "ca.pem")))
    repository = HubRepository("o/m")
    repository.commit({"a": b"x"})
    remote = remote_files("https://127.0.0.1:1", repository)[0]
    with pytest.raises(InvalidRequest, match=r"ca\.pem holds no certificates"):
        list(RangeClient(options).read(remote, 0, 1))


class _Proxy(BaseHTTPRequestHandler):
    """Forwards GET requests for absolute addresses, and remembers them."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.seen.append((self.path, self.headers.get("Proxy-Authorization")))
        connection = HTTPConnection(parts.netloc)
        headers = {name: value for name, value in self.headers.items() if name != "Proxy-Authorization"}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.read())
        connection.close()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[int]:
    _Proxy.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_everything_goes_through_the_proxy_unless_it_is_excepted(proxy: int) -> None:
    data = bytes(range(256)) * 100
    with HubServer() as hub:
        remote = remote_files(hub.url, hub.add("o/m", {"m.gguf": data}))[0]
        through = network(HTTP_PROXY=f"http://me:secret@127.0.0.1:{proxy}")
        with RangeClient(ClientOptions(hub.url, network=through)) as client:
            assert b"".join(client.read(remote, 100, 2000)) == data[100:2100]
        assert [urlsplit(url).path.split("/")[1] for url, _ in _Proxy.seen] == ["o", "lfs"]
        assert {word for _, word in _Proxy.seen} == {"Basic bWU6c2VjcmV0"}
        _Proxy.seen.clear()
        around = network(HTTP_PROXY=f"http://127.0.0.1:{proxy}", NO_PROXY="127.0.0.1")
        with RangeClient(ClientOptions(hub.url, network=around)) as client:
            assert b"".join(client.read(remote, 0, 10)) == data[:10]
        assert _Proxy.seen == []
