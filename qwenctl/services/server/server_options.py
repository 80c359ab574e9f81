"""What can be decided about a server. Values only."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.errors import InvalidRequest
from qwenctl.units import MIB

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much a client may take. The defaults suit a machine of one's own and a few friends."""

    body_bytes: int = 8 * MIB  # a million tokens of text are some 4 MiB
    n_connections: int = 512
    n_waiting: int = 64  # answers that may wait beside those under way
    header_s: float = 10.0  # from the connection, or the end of the last answer's use of it, to a request's headers
    body_s: float = 30.0  # from the headers to the end of the body
    keep_alive_s: float = 60.0  # an idle connection is kept
    stall_s: float = 30.0  # a client may leave an answer unread
    drain_s: float = 30.0  # answers under way may take to finish when the server ends


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where a server listens, whom it trusts, and what it serves.

    Raises:
        InvalidRequest: others could reach it without a key, or a value makes no sense.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT  # 0: a free one
    unix_socket: Path | None = None  # instead of host and port
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()  # pages of these may use it: "https://app.example"
    allowed_hosts: tuple[str, ...] = ()  # names in the Host header beside the loopback's
    aliases: tuple[str, ...] = ()  # names that mean the served model too; "*": all
    allow_switch: bool = False  # requests may name another model that is here
    lazy: bool = False  # load with the first request
    idle_unload_s: float | None = None  # None: never
    limits: ServerLimits = field(default_factory=ServerLimits)

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise InvalidRequest("the API key must be printable ASCII, and not empty")
        if not self.is_loopback and self.api_key is None:
            raise InvalidRequest(
                f"{self.host} can be reached from other machines, and no key was given",
                "QWENCTL_API_KEY=… or --api-key-file FILE sets one; or leave --host out and use ssh -L",
            )
        for origin in self.cors_origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise InvalidRequest(f"{origin!r} is no origin", "write scheme and host, as in https://app.example")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.unix_socket is not None or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether `host` names this machine for itself: localhost, or an address such as 127.0.0.1 and ::1."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
