"""Pools of HTTP connections that are kept open, directly or through proxies, over TLS or not. urllib3 does the HTTP.

Knows nothing of what is asked for and of whom.
"""

from __future__ import annotations

import ssl
import threading
from urllib.parse import unquote, urlsplit

import certifi
import urllib3

from qwenctl.errors import InvalidRequest
from qwenctl.services.hub.proxy_choice import proxy_for
from qwenctl.settings import NetworkSettings


class HttpPools:
    """Makes pools when they are needed. Safe from several threads at once.

    Args:
        network: proxies and certificates.
        n_kept_open: connections that each host and port may keep.
    """

    def __init__(self, network: NetworkSettings, n_kept_open: int) -> None:
        self._network, self._n_kept_open = network, n_kept_open
        self._lock = threading.Lock()
        self._pools: dict[tuple[str | None, bool], urllib3.PoolManager] = {}  # URL of a proxy; for TLS or not

    def pool(self, url: str, *, direct: bool = False) -> urllib3.PoolManager:
        """Return the pool through which `url` is reached; `direct`: not through a proxy, whatever is set.

        Raises:
            InvalidRequest: a proxy or a file of certificates that cannot be used.
        """
        proxy = None if direct else proxy_for(self._network, url)
        key = proxy, url.startswith("https:") or (proxy or "").startswith("https:")
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._make_pool(*key)
            return self._pools[key]

    def close(self) -> None:
        """Close the connections on which nothing is going on."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def _make_pool(self, proxy: str | None, is_tls: bool) -> urllib3.PoolManager:
        context = self._tls() if is_tls else None
        if proxy is None:
            return urllib3.PoolManager(maxsize=self._n_kept_open, ssl_context=context)
        user = urlsplit(proxy)
        headers = None
        if user.username:
            headers = urllib3.make_headers(proxy_basic_auth=f"{unquote(user.username)}:{unquote(user.password or '')}")
        return urllib3.ProxyManager(
            proxy, maxsize=self._n_kept_open, ssl_context=context, proxy_ssl_context=context, proxy_headers=headers
        )

    def _tls(self) -> ssl.SSLContext:
        """Trust what the user names; else the system's certificates and, for systems without any, certifi's."""
        named = self._network.ca_file
        try:
            if named:
                return ssl.create_default_context(
                    cafile=None if named.is_dir() else str(named), capath=str(named) if named.is_dir() else None
                )
            context = ssl.create_default_context()
            context.load_verify_locations(certifi.where())
        except OSError as error:  # ssl.SSLError is one
            raise InvalidRequest(
                f"{named or certifi.where()} holds no certificates: {error.strerror or error}",
                "SSL_CERT_FILE and REQUESTS_CA_BUNDLE name a file of certificates in PEM format",
            ) from error
        return context
