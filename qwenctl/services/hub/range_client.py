"""Parts of files on a hub, over HTTP: asked for, checked and asked for again until they are here.

    hub …/resolve/<commit>/<path>  ─ 302 ─→  storage (another host, a signed address)  ─ 206 ─→  bytes

Where storage has a file is remembered and asked for again when it no longer answers: signed addresses grow old. Knows
nothing of files on this machine.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

from urllib3.exceptions import HTTPError, ProtocolError, SSLError
from urllib3.response import BaseHTTPResponse

from qwenctl.errors import HubUnreachable
from qwenctl.services.hub.backoff import asked_delay_s
from qwenctl.services.hub.connections import ClientOptions, HubConnections, server_name
from qwenctl.services.hub.range_answer import (
    REDIRECTS,
    Span,
    UnusableAnswer,
    check_identity,
    check_range,
    check_status,
    check_storage_etag,
)
from qwenctl.services.hub.rate_limit import RateLimit
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.units import format_seconds

CHUNK_BYTES = 256 << 10
_MAX_REDIRECTS = 5
_MAX_TLS_ATTEMPTS = 3
_KEPT = "what was fetched is kept: give the same command again to go on"


class RangeClient:
    """Reads parts of remote files. Safe from several threads at once; `close` ends what they are doing.

    Args:
        options: where and how.
        limit: bytes per second over everything that this client reads.
        on_wait: told in a sentence why a request has to be tried again, and when; from any thread.
        sleep: waits so many seconds; by default until then or until `close`.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        options: ClientOptions,
        limit: RateLimit | None = None,
        on_wait: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retry = options.retry
        self._connections = HubConnections(options)
        self._limit = limit
        self._piece_bytes = min(CHUNK_BYTES, limit.piece_bytes) if limit else CHUNK_BYTES
        self._on_wait = on_wait
        self._closing = threading.Event()
        self._sleep = sleep or self._closing.wait
        self._clock = clock
        self._chance = random.Random()  # noqa: S311 (spreads requests, hides nothing)
        self._lock = threading.Lock()
        self._open_answers: set[BaseHTTPResponse] = set()
        self._locations: dict[str, str] = {}  # URL on the hub → where storage has it
        self._storage_etags: dict[str, str] = {}  # place in storage → ETag of its first answer
        self._not_before_s: dict[str, float] = {}  # server → when it may be asked again

    def read(self, remote: RemoteFile, offset_bytes: int, n_bytes: int) -> Generator[bytes]:
        """Yield exactly `n_bytes` of the file from `offset_bytes` on, in pieces of at most `CHUNK_BYTES`, in order.

        Close the generator if you do not read it to its end: its connection is closed with it.

        Raises:
            ValueError: the file is not so long.
            HubUnreachable: patience has ended, or the client was closed.
            HubAccessRefused, RemoteFileChanged: see `check_status`, `check_identity`.
        """
        if offset_bytes < 0 or n_bytes < 0 or offset_bytes + n_bytes > remote.n_bytes:
            raise ValueError(f"{remote.name} has no {n_bytes} bytes at {offset_bytes}")
        done, n_failures = 0, 0
        while done < n_bytes:
            try:
                for chunk in self._attempt(remote, Span(offset_bytes + done, n_bytes - done)):
                    done, n_failures = done + len(chunk), 0
                    yield chunk
            except (UnusableAnswer, HTTPError, OSError) as error:
                n_failures += 1
                self._recover(remote, _as_unusable(remote, error), n_failures)

    def read_into(self, remote: RemoteFile, offset_bytes: int, out: memoryview) -> None:
        """Fill `out` (one byte an element) with the bytes from `offset_bytes` on. Raises what `read` does."""
        done = 0
        for chunk in self.read(remote, offset_bytes, len(out)):
            out[done : done + len(chunk)] = chunk
            done += len(chunk)

    def close(self) -> None:
        """Give up what other threads are reading: their reads raise, at once or as soon as the system lets them."""
        self._closing.set()
        with self._lock:
            answers = list(self._open_answers)
        for answer in answers:
            with suppress(Exception):  # it may be finished by now
                answer.shutdown()
        self._connections.close()

    def __enter__(self) -> RangeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(self, remote: RemoteFile, span: Span) -> Iterator[bytes]:
        """Ask once, and yield what comes."""
        self._raise_if_closed(remote)
        answer = self._ask(remote, span)
        left = span.n_bytes
        with self._lock:
            self._open_answers.add(answer)
        try:
            while left:
                self._raise_if_closed(remote)
                chunk = answer.read(min(self._piece_bytes, left), decode_content=False)
                if not chunk:
                    raise ProtocolError(f"the connection ended {left:,} bytes too soon")
                left -= len(chunk)
                if self._limit:
                    self._limit.take(len(chunk))
                if not left and answer.length_remaining is None and answer.read(1, decode_content=False):
                    raise UnusableAnswer(HubUnreachable(f"{remote.name}: more bytes come than were asked for", _KEPT))
                yield chunk
        finally:
            with self._lock:
                self._open_answers.discard(answer)
            if left or answer.length_remaining is None:
                answer.close()  # with its connection: the rest of the body may still be in it
            answer.release_conn()

    def _ask(self, remote: RemoteFile, span: Span) -> BaseHTTPResponse:
        """Return an answer whose body is exactly `span`."""
        url = self._locations.get(remote.url, remote.url)
        for _ in range(_MAX_REDIRECTS + 1):
            server = server_name(url)
            self._sleep(max(0.0, self._not_before_s.get(server, 0.0) - self._clock()))
            answer = self._connections.get(url, span.header)
            try:
                target = self._judge(remote, span, url, answer)
            except BaseException as error:
                answer.close()
                if isinstance(error, UnusableAnswer) and (asked_s := asked_delay_s(answer.headers, time.time())):
                    error.asked_s = asked_s
                    self._not_before_s[server] = self._clock() + min(asked_s, self._retry.most_asked_s)
                raise
            if target is None:
                return answer
            answer.drain_conn()
            answer.release_conn()
            if not self._connections.is_hub(target):
                self._locations[remote.url] = target
            url = target
        raise UnusableAnswer(HubUnreachable(f"{remote.name}: redirected more than {_MAX_REDIRECTS} times", _KEPT))

    def _judge(self, remote: RemoteFile, span: Span, url: str, answer: BaseHTTPResponse) -> str | None:
        """Return where an answer sends us, or None: its body is `span`."""
        server, is_hub, headers = server_name(url), self._connections.is_hub(url), answer.headers
        is_redirect = answer.status in REDIRECTS
        if not is_redirect:
            check_status(remote, answer.status, headers, server, is_hub=is_hub)
        if is_hub:
            check_identity(remote, headers)
        if not is_redirect:
            check_range(remote, span, answer.status, headers, server)
            if not is_hub:
                self._compare_etag(remote, url.partition("?")[0], headers)
            return None
        target = urljoin(url, headers.get("Location", ""))
        schemes = urlsplit(url).scheme, urlsplit(target).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            raise UnusableAnswer(HubUnreachable(f"{remote.name}: {server} sends us to {server_name(target)} unsafely"))
        return target

    def _compare_etag(self, remote: RemoteFile, place: str, headers: Mapping[str, str]) -> None:
        """Raise if storage names other contents than before. Either may have been wrong; a hash will tell, if any."""
        try:
            check_storage_etag(remote, self._storage_etags.get(place), headers)
        except UnusableAnswer:
            if remote.sha256 or remote.git_oid:
                self._storage_etags.pop(place, None)
            raise
        self._storage_etags.setdefault(place, headers.get("ETag", ""))

    def _recover(self, remote: RemoteFile, failure: UnusableAnswer, n_failures: int) -> None:
        """Wait before the next attempt, or raise what made this one fail."""
        self._raise_if_closed(remote)
        if failure.is_stale:
            self._locations.pop(remote.url, None)
        delay_s = self._retry.delay_s(n_failures, failure.asked_s, self._chance)
        if delay_s is None or n_failures >= (failure.max_attempts or n_failures + 1):
            raise failure.error from failure
        self._on_wait(f"{failure.error.message}; asking again in {format_seconds(delay_s)}")
        self._sleep(delay_s)
        self._raise_if_closed(remote)

    def _raise_if_closed(self, remote: RemoteFile) -> None:
        if self._closing.is_set():
            raise HubUnreachable(f"{remote.name}: stopped", _KEPT)


def _as_unusable(remote: RemoteFile, error: Exception) -> UnusableAnswer:
    """Return what urllib3 or the system reports as an answer that did not come."""
    if isinstance(error, UnusableAnswer):
        return error
    cause = error.args[0] if isinstance(error, ProtocolError) and error.args else error
    text = str(cause).rpartition(">: ")[2].rpartition("): ")[2]  # what precedes names objects of urllib3
    message = f"{remote.name}: {text or type(error).__name__}"
    if isinstance(error, SSLError):
        hint = "if a proxy of yours is in the way, SSL_CERT_FILE names the certificates that it is known by"
        return UnusableAnswer(HubUnreachable(message, hint), _MAX_TLS_ATTEMPTS)
    return UnusableAnswer(HubUnreachable(message, _KEPT))
