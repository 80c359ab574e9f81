"""Connections that no honest client makes: half requests, floods, wrong names, clients that do not read or write."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable

from server_fuzz.hostile_bodies import GOOD

_HOSTS = ("localhost", "evil.example", "127.0.0.1.evil.example", "", "a" * 5000, "localhost:99999999", "[::1", "\x7f")
_ORIGINS = ("null", "http://evil.example", "file://", "http://[", "x" * 5000)
_TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "application/json; x",
)
_PATHS = (
    "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//", "/%00", "/v1/models/" + "a/" * 3000, "/?" + "a=b&" * 5000, "*",
    "http://evil.example/", "/page/..%5c..%5c", "/v1/models/%F0%9F%98%80", "/v1/chat/completions/../../metrics",
)  # fmt: skip


def request(body: bytes, path: str = "/v1/chat/completions", method: str = "POST", *lines: str) -> bytes:
    """Return a request as bytes."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return ("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""])).encode("utf-8", "replace") + body


def good(*, stream: bool = False, n_tokens: int = 2) -> bytes:
    """A body that would be answered."""
    return json.dumps(GOOD | {"stream": stream, "max_tokens": n_tokens}).encode()


def exchange(port: int, data: bytes, *, patience_s: float = 30.0, n_bytes: int = 1 << 20) -> bytes:
    """Send `data` and return what comes back, until the server closes, is silent, or has sent so much."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as connection:
        try:
            connection.sendall(data)
            while len(found) < n_bytes and (part := connection.recv(1 << 16)):
                found += part
        except OSError:
            pass
    return found


def wrong_names(port: int, rng: random.Random) -> bytes:
    """Other names and origins than this server's."""
    lines = [f"Host: {rng.choice(_HOSTS)}", f"Content-Type: {rng.choice(_TYPES)}"]
    if rng.random() < 0.7:
        lines.append(f"Origin: {rng.choice(_ORIGINS)}")
    body = good()
    head = ["POST /v1/chat/completions HTTP/1.1", *lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return exchange(port, "\r\n".join(head).encode() + body)


def paths(port: int, rng: random.Random) -> bytes:
    """Paths that lead elsewhere, methods that nobody knows."""
    method = rng.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "X" * 500))
    return exchange(port, request(b"", rng.choice(_PATHS), method, "Connection: close"), patience_s=5)


def half_requests(port: int, rng: random.Random) -> bytes:
    """The beginning of a request."""
    data = request(good(stream=rng.random() < 0.5))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data[: rng.randrange(len(data))])
    return b""


def gone_clients(port: int, rng: random.Random) -> bytes:
    """Clients that go away while their answer is under way."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request(good(stream=rng.random() < 0.7, n_tokens=500)))
        if rng.random() < 0.7:
            connection.recv(rng.choice((1, 300, 3000)))
        if rng.random() < 0.3:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no farewell
    return b""


def pipelines(port: int, rng: random.Random) -> bytes:
    """Several requests at once, good and bad."""
    parts = [
        rng.choice((request(good()), request(b"{"), request(b"", "/health", "GET"), request(b"", "/nothing", "GET")))
        for _ in range(rng.randint(2, 6))
    ]
    return exchange(port, b"".join(parts) + request(b"", "/health", "GET", "Connection: close"))


def floods(port: int, rng: random.Random) -> bytes:
    """More headers, longer lines, noise."""
    kind = rng.randrange(5)
    if kind == 0:
        return exchange(
            port,
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * rng.choice((500, 50_000)) + b"\r\n",
            patience_s=5,
        )
    if kind == 1:
        return exchange(
            port, b"GET /" + b"a" * rng.choice((5000, 500_000)) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", patience_s=5
        )
    if kind == 2:
        return exchange(
            port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n", patience_s=5
        )
    if kind == 3:
        return exchange(port, rng.randbytes(rng.randint(1, 5000)), patience_s=0.5)
    return exchange(port, b"\r\n" * 50_000, patience_s=0.5)


def bad_framing(port: int, rng: random.Random) -> bytes:
    """Bodies whose length is contradictory, wrong or missing."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    rest = rng.choice(
        (
            "Content-Length: -1\r\n\r\n",
            "Content-Length: 99999999999999999999\r\n\r\n{}",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n{}",
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            "Transfer-Encoding: chunked\r\n\r\n" + "1\r\n \r\n" * 20_000 + "0\r\n\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 2\r\n\r\n{}",
        )
    )
    return exchange(port, (head + rest).encode(), patience_s=0.5)


def large_bodies(port: int, rng: random.Random) -> bytes:
    """Bodies around and far above the limit."""
    n_bytes = rng.choice((7_000_000, 9_000_000, 20_000_000, 100_000_000))
    piece = rng.choice((b"a" * 65_536, b"[]," * 21_845, b" " * 65_536, b'{"a":1},' * 8192))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % n_bytes)
            for _ in range(n_bytes // len(piece)):
                connection.sendall(piece)
            connection.sendall(piece[: n_bytes % len(piece)])
            while part := connection.recv(1 << 16):
                found += part
        except OSError:
            pass
    return found


def slow_clients(port: int, rng: random.Random) -> bytes:
    """They write or read a byte at a time, for some seconds."""
    data = request(good(stream=True, n_tokens=300))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        if rng.random() < 0.5:
            for byte in data[:30]:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        else:
            connection.sendall(data)
            for _ in range(20):
                connection.recv(1)
                time.sleep(0.1)
    return b""


CONNECTIONS: dict[str, Callable[[int, random.Random], bytes]] = {
    "wrong Host, Origin, type": wrong_names,
    "paths and methods": paths,
    "half requests": half_requests,
    "clients that go away": gone_clients,
    "pipelined requests": pipelines,
    "floods and noise": floods,
    "bad framing": bad_framing,
    "bodies of up to 100 MB": large_bodies,
    "slow clients": slow_clients,
}
# Those that take seconds each are fewer.
RARE = {"bodies of up to 100 MB": 0.1, "slow clients": 0.2}
