"""Connections to a hub and to where it sends us: kept open (http_pools.py), one request at a time each.

The token goes to the hub and to nobody else: a redirect to another scheme, host or port loses it. urllib3 does the
HTTP; huggingface_hub has changed its own HTTP library before. Knows nothing of what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout

from qwenctl import __version__
from qwenctl.errors import InvalidRequest
from qwenctl.services.http_pools import HttpPools
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.settings import NetworkSettings

_DEFAULT_PORTS = {"http": 80, "https": 443}
_KEPT_OPEN = 32


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a hub is reached."""

    endpoint: str  # "https://huggingface.co": the only place that the token is sent to
    token: str | None = field(default=None, repr=False)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    connect_s: float = 10.0
    silence_s: float = 30.0  # a connection on which nothing comes for so long is given up

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"{self.endpoint!r} is no address of a hub", "HF_ENDPOINT takes https://HOST")


class HubConnections:
    """Sends requests. Safe from several threads at once.

    Args:
        options: where and how.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._pools = HttpPools(options.network, _KEPT_OPEN)

    def get(self, url: str, range_header: str) -> BaseHTTPResponse:
        """Return the answer of the server that `url` names, be it a redirect, with its body still to be read.

        Raises:
            urllib3.exceptions.HTTPError, OSError: there is none.
            InvalidRequest: a proxy or a file of certificates that cannot be used.
        """
        headers = {"Range": range_header, "Accept-Encoding": "identity", "User-Agent": f"qwenctl/{__version__}"}
        if self._options.token and self.is_hub(url):
            headers["Authorization"] = f"Bearer {self._options.token}"
        return self._pools.pool(url).request(
            "GET",
            url,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=Timeout(connect=self._options.connect_s, read=self._options.silence_s),
        )

    def is_hub(self, url: str) -> bool:
        """Tell whether `url` is on the hub itself: same scheme, host and port."""
        return _origin(url) == _origin(self._options.endpoint)

    def close(self) -> None:
        """Close the connections on which nothing is going on."""
        self._pools.close()


def server_name(url: str) -> str:
    """Return host and port as messages name them: the rest of a signed address is a secret."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2]


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme)
