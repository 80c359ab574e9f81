"""A hub opened for one command: asked for listings and read from, or, offline, what its cache here knows of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import Self

from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.hf_cache import cached_repository
from qwenctl.services.hub.hub_client import HubClient
from qwenctl.services.hub.listing import Repository
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.rate_limit import RateLimit
from qwenctl.settings import Settings


class Hub:
    """A context manager; leaving it ends all connections.

    Args:
        settings: where it is, with which token, whether it may be asked at all, and through which proxies.
        bytes_per_s: of everything that is fetched, at most; None: no limit.
        on_wait: told why something has to be tried again; from any thread.
    """

    def __init__(
        self, settings: Settings, bytes_per_s: int | None = None, on_wait: Callable[[str], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._limit = RateLimit(bytes_per_s) if bytes_per_s else None
        self._on_wait = on_wait
        self.cache_dir = settings.hub.cache_dir

    def repository(self, repo_id: str, revision: str | None = None) -> Repository:
        """Return a repository's listing. Raises what `HubClient.repository` or `cached_repository` does."""
        if self._settings.hub.offline:
            return cached_repository(self._settings.hub, repo_id, revision)
        return self._asking.repository(repo_id, revision)

    @cached_property
    def client(self) -> RangeClient | None:
        """Connections to fetch with; None without a network."""
        hub = self._settings.hub
        if hub.offline:
            return None
        options = ClientOptions(hub.endpoint, self._asking.token, self._settings.network)
        return RangeClient(options, self._limit, self._on_wait)

    @cached_property
    def _asking(self) -> HubClient:
        return HubClient(self._settings.hub)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "client" in self.__dict__ and self.client is not None:
            self.client.close()
