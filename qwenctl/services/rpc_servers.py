"""Servers of ggml's RPC backend, asked before ggml sees them: it waits for ever, or aborts, where none answers.

    qwenctl worker         says who it is (worker_identity.py): its protocol and its ggml commit must be ours
    llama.cpp's rpc-server tells the version of the protocol alone. ggml compares major and minor; the patch counts
                           ggml's operations, whose numbers travel, so it must be the same, too

A server serves one client at a time; llama.cpp's lets the next one wait without a word. Nothing is sent to anything
that the user did not name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from qwenctl.errors import InvalidRequest, ModelLoadFailed
from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.services.rpc_connection import NotRpc, RpcConnection, connect
from qwenctl.services.worker_identity import (
    HELLO,
    MOST_LINE_BYTES,
    PINNED_BUILD,
    WorkerIdentity,
    installed_build,
    parse_identity,
)

MAX_SERVERS = 16  # GGML_RPC_MAX_SERVERS
ANSWER_LIMIT_S = 8.0
RPC_VERSION = (7, 0, 0)  # RPC_PROTO_…_VERSION of the release that ggml_abi.py was generated from
_PROBE_LIMIT_S = 1.0
_BUSY_LIMIT_S, _BUSY_PAUSE_S = 3.0, 0.1  # a worker needs a moment after its last client

_ENDPOINT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}):(\d{1,5})", re.ASCII)
_HINT = "start `qwenctl worker` there, or leave --rpc out"


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


def greet(endpoint: str, *, limit_s: float = ANSWER_LIMIT_S) -> WorkerIdentity | None:
    """Return who answers at `endpoint`, free and of our version; None: llama.cpp's own rpc-server.

    Raises:
        ModelLoadFailed: nobody listens, or what listens is no RPC server, of another version, or busy; the message
            says which.
    """
    try:
        identity = _identity(endpoint, limit_s)
        if identity is None:
            with RpcConnection(endpoint, limit_s) as connection:
                _check_protocol(endpoint, connection.version)
            return None
    except TimeoutError:
        busy = "it hangs, or it serves another program: llama.cpp's rpc-server can serve one at a time"
        raise ModelLoadFailed(f"the RPC server {endpoint} does not answer within {limit_s:g} s", busy) from None
    except NotRpc:
        what = f"what listens at {endpoint} is no RPC server of llama.cpp, or of another version"
        raise ModelLoadFailed(what, _HINT) from None
    except OSError as error:
        raise ModelLoadFailed(f"there is no RPC server at {endpoint}: {error.strerror or error}", _HINT) from error
    if identity.busy:
        raise ModelLoadFailed(f"the worker {endpoint} serves another program", "it can serve one at a time")
    _check_worker(endpoint, identity)
    return identity


def remote_devices(endpoints: Sequence[str], *, limit_s: float = ANSWER_LIMIT_S) -> tuple[DeviceMemory, ...]:
    """Return the devices of servers with their memory, named as ggml will name them: "RPC0[host:port]", ….

    Raises:
        ModelLoadFailed: as `greet`, of any of them.
    """
    found: list[DeviceMemory] = []
    for endpoint in endpoints:
        greet(endpoint, limit_s=limit_s)
        try:
            with RpcConnection(endpoint, limit_s) as connection:
                for device in range(connection.device_count()):
                    free, total = connection.device_memory(device)
                    found.append(DeviceMemory(f"RPC{len(found)}[{endpoint}]", free, total))
        except OSError as error:
            reason = error.strerror or error
            raise ModelLoadFailed(f"the RPC server {endpoint} does not tell its devices: {reason}", _HINT) from error
    return tuple(found)


def is_gone(endpoint: str) -> bool:
    """Return whether nobody listens at `endpoint` any more."""
    try:
        connect(endpoint, _PROBE_LIMIT_S).close()
    except OSError:
        return True
    return False


def _identity(endpoint: str, limit_s: float) -> WorkerIdentity | None:
    """Ask who is there, again for a while if it is busy; None: no worker of ours.

    Raises:
        OSError: nobody listens, or does not answer in time.
    """
    deadline = time.monotonic() + _BUSY_LIMIT_S
    while True:
        with connect(endpoint, limit_s) as connection:
            try:
                connection.sendall(HELLO)
                with connection.makefile("rb") as stream:
                    line = stream.readline(MOST_LINE_BYTES)
            except TimeoutError:
                raise
            except OSError:  # rpc-server closes the connection, with what it has not read in it
                line = b""
        identity = parse_identity(line)
        if identity is None or not identity.busy or time.monotonic() > deadline:
            return identity
        time.sleep(_BUSY_PAUSE_S)


def _check_protocol(endpoint: str, version: tuple[int, int, int]) -> None:
    if version != RPC_VERSION and installed_build().agrees(PINNED_BUILD):  # of another build ours is not known
        theirs, ours = _dotted(version), _dotted(RPC_VERSION)
        what = f"the RPC server {endpoint} speaks version {theirs} of ggml's protocol; this machine's speaks {ours}"
        raise ModelLoadFailed(what, "run `qwenctl worker` of the same qwenctl there")


def _check_worker(endpoint: str, identity: WorkerIdentity) -> None:
    ours = installed_build()
    if not identity.ggml.agrees(ours):
        what = f"the worker {endpoint} has ggml {identity.ggml}; this machine has {ours}"
    elif ours.agrees(PINNED_BUILD) and identity.rpc != _dotted(RPC_VERSION):
        what = f"the worker {endpoint} speaks version {identity.rpc} of ggml's protocol, not {_dotted(RPC_VERSION)}"
    else:
        return
    raise ModelLoadFailed(what, f"install the same qwenctl on both machines; there it is {identity.version}")


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
