"""Who may ask: pure decisions on the headers of a request.

A page on the web can make a browser send requests to a server on the same machine. Two walls stand against that. The
Host header must name this machine: a page whose name is bound to 127.0.0.1 after it was loaded (DNS rebinding) still
sends its own name. And where there is an Origin header, it must be that of our own page or of one that was allowed:
what a browser sends for other pages always has one, but for plain GETs, whose answers such pages cannot read.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.server.server_options import ServerOptions, is_loopback

PAGE_PATHS = ("/", "/page.css", "/page.js", "/markdown.js", "/stream.js", "/icon.svg")
OPEN_PATHS = frozenset({*PAGE_PATHS, "/favicon.ico", "/health", "/ready"})  # without a key


class AccessRules:
    """Judges requests by their headers, names in lower case."""

    def __init__(self, options: ServerOptions) -> None:
        self._key = None if options.api_key is None else options.api_key.encode()
        self._origins = frozenset(origin.lower() for origin in options.cors_origins)
        self._hosts = frozenset(name.lower().rstrip(".") for name in options.allowed_hosts)
        self._checks_host = options.unix_socket is None and options.is_loopback

    def allowed_origin(self, origin: str | None) -> str | None:
        """Return the origin whose pages may read the answer; None: only our own."""
        return origin if origin is not None and origin.lower() in self._origins else None

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> ApiError | None:
        """Return why a request is refused; None: it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._checks_host and not self._is_our_name(host):
            message = f"the Host header {host[:100]!r} is not a name of this server; serve --allow-host adds one"
            return ApiError(421, message, code="unknown_host")
        if origin is not None and not self._is_our_page(origin, host):
            message = f"pages of {origin[:100]!r} may not use this server; serve --cors-origin allows them"
            return ApiError(403, message, code="origin_not_allowed")
        if self._key is not None and path not in OPEN_PATHS and not self._has_key(headers):
            return ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
        if method == "POST" and not _is_json(headers.get("content-type", "")):
            return ApiError(415, "the Content-Type must be application/json", code="unsupported_media_type")
        return None

    def _is_our_name(self, host: str) -> bool:
        name = host_name(host)
        return name is not None and (is_loopback(name) or name in self._hosts)

    def _is_our_page(self, origin: str, host: str) -> bool:
        if self.allowed_origin(origin):
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == host.lower()

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._key or b"")


def host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port and in lower case; None: it makes no sense."""
    name, bracket, rest = host.rpartition("]") if host.startswith("[") else ("", "", host)
    if bracket:
        name, port = name + bracket, rest.removeprefix(":")
    else:
        name, _, port = rest.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return None
    return name.lower().rstrip(".") or None


def _is_json(content_type: str) -> bool:
    kind, _, rest = content_type.partition(";")
    charset = rest.strip().lower().replace('"', "").replace(" ", "")
    return kind.strip().lower() == "application/json" and charset in ("", "charset=utf-8")
