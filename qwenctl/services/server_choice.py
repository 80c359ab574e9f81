"""Which OpenAI-compatible servers a user names, and how they are to be asked. Values only: no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from qwenctl.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is: `http://host:port`, with a path in front of `/v1` where a proxy wants one.

    Raises:
        InvalidRequest: no such address, or one with a password.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise InvalidRequest(f"{self.url!r} is no address of a server", _HINT) from None
        if not usable or parts.query or parts.fragment:
            raise InvalidRequest(f"{self.url!r} is no address of a server", _HINT)
        if parts.username or parts.password:
            raise InvalidRequest("a server's address must not hold a name or password", "the key goes into --api-key")

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Return the address that a user writes, with or without `http://` in front and `/v1` behind."""
        url = text.strip() if "://" in text else f"http://{text.strip()}"
        return cls(url.rstrip("/").removesuffix("/v1"))

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, by its name or address."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False


_HINT = "--server http://HOST:PORT"


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """What a user says about servers."""

    addresses: tuple[ServerAddress, ...] = ()
    key: str | None = field(default=None, repr=False)  # of all of them
    model: str | None = None  # that they are asked for; None: the first that they list
    silence_s: float = 600.0  # how long an answer may take to come

    def __post_init__(self) -> None:
        if len({address.url for address in self.addresses}) < len(self.addresses):
            raise InvalidRequest("a server is named twice")
