"""A connection to an RPC server of ggml's, for the few questions that one asks before ggml itself is let near it.

    →  command (1 byte) + length (8, little endian) + body
    ←  length (8) + body
    HELLO             14    24 bytes of capabilities (zero: plain TCP)  →  major, minor, patch, padding, 24 bytes
    DEVICE_COUNT      15    nothing                                     →  u32
    GET_DEVICE_MEMORY 11    u32 device                                  →  u64 free, u64 total

A connection starts with HELLO. Source: ggml-rpc.cpp of llama.cpp 0c1e57098. IPv4 only, as ggml has it.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

_HELLO, _DEVICE_COUNT, _GET_DEVICE_MEMORY = 14, 15, 11
_MOST_ANSWER_BYTES = 1 << 10


class NotRpc(OSError):
    """What listens there does not speak the protocol."""


def connect(endpoint: str, limit_s: float | None) -> socket.socket:
    """Return a connection to "host:port" whose operations each take `limit_s` at most; None: as long as they take.

    Raises:
        OSError: nobody listens there, or does not answer in time.
    """
    host, _, port = endpoint.rpartition(":")
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(limit_s)
        connection.connect((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


class RpcConnection:
    """One client's connection; a server has one at a time.

    Args:
        endpoint: "host:port".
        limit_s: for each question.

    Attributes:
        version: of the protocol that the server speaks.

    Raises:
        TimeoutError: no answer in time, here and from every method.
        NotRpc: the answer is none.
        OSError: nobody listens there.
    """

    def __init__(self, endpoint: str, limit_s: float) -> None:
        self._socket = connect(endpoint, limit_s)
        try:
            answer = self._ask(_HELLO, bytes(24), 4)
        except BaseException:
            self.close()
            raise
        self.version: tuple[int, int, int] = (answer[0], answer[1], answer[2])

    def device_count(self) -> int:
        """Return how many devices the server has."""
        return int(struct.unpack("<I", self._ask(_DEVICE_COUNT, b"", 4)[:4])[0])

    def device_memory(self, device: int) -> tuple[int, int]:
        """Return (free, total) bytes of a device."""
        free, total = struct.unpack("<QQ", self._ask(_GET_DEVICE_MEMORY, struct.pack("<I", device), 16)[:16])
        return free, total

    def close(self) -> None:
        """Let the server go."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, command: int, body: bytes, least_bytes: int) -> bytes:
        self._socket.sendall(struct.pack("<BQ", command, len(body)) + body)
        length = struct.unpack("<Q", self._read(8))[0]
        if not least_bytes <= length <= _MOST_ANSWER_BYTES:
            raise NotRpc("no answer of an RPC server")
        return self._read(length)

    def _read(self, n_bytes: int) -> bytes:
        data = b""
        while len(data) < n_bytes:
            piece = self._socket.recv(n_bytes - len(data))
            if not piece:
                raise NotRpc("the connection was closed")
            data += piece
        return data
