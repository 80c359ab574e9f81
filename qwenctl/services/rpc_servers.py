"""Servers of llama.cpp's RPC backend, asked before ggml sees them: it waits for ever, or aborts, where none answers.

    endpoint   "host:port", a name or an IPv4 address; ggml takes nothing else
    greeting   command 14, u64 24, 24 bytes of capabilities (zero: plain TCP)  →  u64 length, version, capabilities

A server serves one client at a time and lets the next one wait without a word. Source of the greeting: ggml-rpc.cpp of
llama.cpp 0c1e57098. Nothing is sent to anything that the user did not name.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Sequence

from qwenctl.errors import InvalidRequest, ModelLoadFailed

MAX_SERVERS = 16  # GGML_RPC_MAX_SERVERS
ANSWER_LIMIT_S = 10.0
_PROBE_LIMIT_S = 1.0

_ENDPOINT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}):(\d{1,5})", re.ASCII)
_HELLO = struct.pack("<BQ24x", 14, 24)


def check_endpoints(endpoints: Sequence[str]) -> None:
    """Raise unless each is "host:port", and named once.

    Raises:
        InvalidRequest: it is not, or there are too many.
    """
    for endpoint in endpoints:
        match = _ENDPOINT.fullmatch(endpoint)
        if not match or not 0 < int(match[1]) < 1 << 16:
            raise InvalidRequest(f"{endpoint!r} names no RPC server", "write HOST:PORT, as in 192.168.0.2:50052")
    if len(set(endpoints)) < len(endpoints):
        raise InvalidRequest("an RPC server is named twice")
    if len(endpoints) > MAX_SERVERS:
        raise InvalidRequest(f"{len(endpoints)} RPC servers; llama.cpp takes at most {MAX_SERVERS}")


def greet(endpoint: str, *, limit_s: float = ANSWER_LIMIT_S) -> None:
    """Raise unless a free RPC server answers at `endpoint`.

    Raises:
        ModelLoadFailed: nobody listens, or what listens is no RPC server, or is busy; the message says which.
    """
    hint = "start llama.cpp's rpc-server there, or leave --rpc out"
    try:
        with _connected(endpoint, limit_s) as connection:
            connection.sendall(_HELLO)
            with connection.makefile("rb") as stream:
                answer = stream.read(8)
    except TimeoutError:
        busy = "perhaps it serves another program: it can serve one at a time"
        raise ModelLoadFailed(f"the RPC server {endpoint} does not answer within {limit_s:g} s", busy) from None
    except OSError as error:
        raise ModelLoadFailed(f"there is no RPC server at {endpoint}: {error.strerror or error}", hint) from error
    if len(answer) < 8 or not 4 <= struct.unpack("<Q", answer)[0] <= 1 << 10:
        raise ModelLoadFailed(f"what listens at {endpoint} is no RPC server of llama.cpp, or of another version", hint)


def is_gone(endpoint: str) -> bool:
    """Return whether nobody listens at `endpoint` any more."""
    try:
        with _connected(endpoint, _PROBE_LIMIT_S):
            return False
    except OSError:
        return True


def _connected(endpoint: str, limit_s: float) -> socket.socket:
    """IPv4, as ggml has it."""
    host, _, port = endpoint.rpartition(":")
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(limit_s)
        connection.connect((host, int(port)))
    except BaseException:
        connection.close()
        raise
    return connection
