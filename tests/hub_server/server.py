"""A hub on loopback that speaks the real one's HTTP API, well enough for the real huggingface_hub client.

    hub       http://127.0.0.1:P    /api/models/…, /<repo>/resolve/<revision>/<path>, HEAD and GET
    storage   http://127.0.0.1:Q    where LFS files lie: another origin, signed addresses, no tokens wanted

    with HubServer() as hub:
        hub.add("org/model", {"config.json": b"{}", "model.safetensors": Path("…")})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

`served` counts bytes sent of each file, `exchanges` records what was asked, `fault` decides what goes wrong.
Paths, headers and error codes as huggingface_hub 2.4.0 expects them (hf_api.py, file_download.py, utils/_http.py).
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.hub_server.faults import HTML, NO_FAULT, Exchange, Fault
from tests.hub_server.repository import Blob, HubRepository

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE_BYTES = 64 << 10
_SEND_BUFFER_BYTES = 128 << 10  # small, so that `served` is close to what has arrived
TREE_PAGE = 50


class HubServer:
    """The two servers and all that they know. A context manager; `url` is for HF_ENDPOINT.

    Args:
        tokens: each valid token with the gated and private repositories that it opens.
        bytes_per_s: of each connection; None: as fast as it goes.
        certificate: a file with a key and a certificate: speak TLS.
    """

    def __init__(
        self,
        tokens: Mapping[str, set[str]] | None = None,
        bytes_per_s: float | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.tokens = dict(tokens or {})
        self.bytes_per_s = bytes_per_s
        self.repositories: dict[str, HubRepository] = {}
        self.fault: Callable[[Exchange], Fault | None] = lambda _: None
        self.served: Counter[str] = Counter()  # "org/repo/path" → bytes of contents sent
        self.exchanges: list[Exchange] = []
        self.tokens_at_storage: list[str] = []  # must stay empty
        self.lock = threading.Lock()
        self._signature = secrets.token_hex(8)
        self._servers = [_Server(self, "hub"), _Server(self, "storage")]
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            for server in self._servers:
                server.socket = context.wrap_socket(server.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._servers[1].server_port}"

    def add(self, repo_id: str, files: Mapping[str, bytes | Path], **settings: Any) -> HubRepository:
        """Add a repository with one commit on `main`."""
        repository = HubRepository(repo_id, **settings)
        repository.commit(files)
        self.repositories[repo_id] = repository
        return repository

    def expire_signatures(self) -> None:
        """Make every address of storage that was given out so far answer 403."""
        self._signature = secrets.token_hex(8)

    def sign(self, sha256: str, file: str) -> str:
        query = {"X-Signature": self._signature, "file": file}
        return f"{self.storage_url}/lfs/{sha256}?{urlencode(query)}"

    def is_signed(self, query: Mapping[str, list[str]]) -> bool:
        return query.get("X-Signature") == [self._signature]

    def find(self, sha256: str) -> Blob | None:
        blobs = (b for repo in self.repositories.values() for files in repo.commits.values() for b in files.values())
        return next((blob for blob in blobs if blob.sha256 == sha256), None)

    def begin(self, exchange: Exchange) -> Fault:
        with self.lock:
            self.exchanges.append(exchange)
        return self.fault(exchange) or NO_FAULT

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: HubServer, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.role = hub, role

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of tests are killed in the middle: that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._route()

    # --- what is asked for ---

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def _route(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        if self.server.role == "storage":
            self._storage(path)
        elif path == "/api/whoami-v2":
            self._whoami()
        elif match := re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", path):
            self._resolve(*match.groups(), is_cache=True)
        elif match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            self._api(*match.groups())
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(auth-check|refs)", path):
            self._about(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups(), is_cache=False)
        else:
            self._error(404, "", "Not Found")

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _repository(self, repo_id: str, *, for_contents: bool) -> HubRepository | None:
        """Return the repository if the caller may see it; else answer as the hub does."""
        token, repository = self._token(), self.hub.repositories.get(repo_id)
        if token is not None and token not in self.hub.tokens:
            return self._error(401, "", "Invalid credentials in Authorization header")
        may = token is not None and repo_id in self.hub.tokens[token]
        if repository is None or (repository.private and not may):
            return self._error(404 if token else 401, "RepoNotFound", "Repository not found")
        if for_contents and repository.gated and not may:
            reason = "You are not in the authorized list." if token else "Please log in."
            return self._error(403 if token else 401, "GatedRepo", f"Access to model {repo_id} is restricted. {reason}")
        return repository

    def _whoami(self) -> None:
        if self._token() not in self.hub.tokens:
            return self._error(401, "", "Invalid credentials in Authorization header")
        return self._json({"type": "user", "name": "tester", "fullname": "Tester", "orgs": [], "auth": {}})

    def _about(self, repo_id: str, what: str) -> None:
        repository = self._repository(repo_id, for_contents=what == "auth-check")
        if repository is not None:
            refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repository.refs.items()]
            self._json({"branches": refs, "tags": [], "converts": []} if what == "refs" else {})

    def _api(self, repo_id: str, what: str | None, revision: str | None, path: str | None) -> None:
        exchange = Exchange(0, "hub", self.command, "", self.path, has_token=self._token() is not None)
        fault = self.hub.begin(exchange)
        if self._answer_status(fault):
            return
        repository = self._repository(repo_id, for_contents=False)
        if repository is None:
            return
        sha = repository.resolve(revision or "main")
        if sha is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "tree":
            self._tree(repository.commits[sha], path or "")
        elif what == "paths-info":
            wanted = set(parse_qs(self.body.decode())["paths"])
            files = repository.commits[sha]
            self._json([blob.tree_entry(path) for path, blob in files.items() if path in wanted])
        else:
            self._json(repository.info(sha, with_blobs="blobs" in self.query))

    def _tree(self, files: Mapping[str, Blob], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                name = prefix + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
            entries[path] = blob.tree_entry(path)
        if "true" not in [value.lower() for value in self.query.get("recursive", [])]:
            entries = {name: entry for name, entry in entries.items() if "/" not in name[len(prefix) :]}
        start = int(self.query.get("cursor", ["0"])[0])
        page = list(entries.values())[start : start + TREE_PAGE]
        headers = {}
        if start + TREE_PAGE < len(entries):
            query = {name: values[0] for name, values in self.query.items()} | {"cursor": str(start + TREE_PAGE)}
            target = f"{self.hub.url}{urlsplit(self.path).path}?{urlencode(query)}"
            headers["Link"] = f'<{target}>; rel="next"'
        self._json(page, headers)

    def _resolve(self, repo_id: str, revision: str, path: str, *, is_cache: bool) -> None:
        file = f"{repo_id}/{path}"
        repository = self._repository(repo_id, for_contents=True)
        if repository is None:
            return
        sha = repository.resolve(revision)
        if sha is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        blob = repository.commits[sha].get(path)
        headers: dict[str, str] = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if blob is None:
            self._error(404, "EntryNotFound", "Entry not found", headers)
            return
        if blob.is_lfs or not is_cache:
            fault = self._begin("hub", file, blob)
            if self._answer_status(fault):
                return
            headers |= {"ETag": f'"{blob.etag}"'}
            if blob.is_lfs:
                headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": f'"{blob.sha256}"'}
                headers["Location"] = self.hub.sign(blob.sha256, file)
            else:
                headers["Location"] = f"/api/resolve-cache/models/{repo_id}/{sha}/{quote(path)}"
            self._send(302 if blob.is_lfs else 307, _changed(headers, fault), b"")
            return
        headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "text/plain; charset=utf-8"}
        self._contents(file, blob, headers, self._begin("hub", file, blob))

    def _storage(self, path: str) -> None:
        if self._token():
            self.hub.tokens_at_storage.append(str(self._token()))
        blob = self.hub.find(path.rpartition("/")[2])
        if not self.hub.is_signed(self.query) or blob is None:
            self._send(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
            return
        file = self.query["file"][0]
        headers = {"ETag": f'"{blob.sha256[:32]}"', "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
        fault = self._begin("storage", file, blob)
        if not self._answer_status(fault):
            self._contents(file, blob, headers, fault)

    def _begin(self, server: str, file: str, blob: Blob) -> Fault:
        start, end = self._range(len(blob.data)) or (0, len(blob.data))
        with self.hub.lock:
            number = sum(bool(exchange.file) for exchange in self.hub.exchanges) + 1
        has_token = self._token() is not None
        exchange = Exchange(number, server, self.command, file, self.path, start, end - start, has_token)
        fault = self.hub.begin(exchange)
        time.sleep(fault.delay_s)
        return fault

    # --- what is answered ---

    def _range(self, n_bytes: int) -> tuple[int, int] | None:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not match:
            return None
        start = int(match[1])
        return start, min(n_bytes, int(match[2]) + 1 if match[2] else n_bytes)

    def _answer_status(self, fault: Fault) -> bool:
        if fault.status is not None:
            self._error(fault.status, "", "busy", {k: v for k, v in fault.headers.items() if v is not None})
        return fault.status is not None

    def _contents(self, file: str, blob: Blob, headers: dict[str, str], fault: Fault) -> None:
        wanted = None if fault.ignore_range else self._range(len(blob.data))
        start, end = wanted or (0, len(blob.data))
        if wanted and start >= len(blob.data):
            self._send(416, headers | {"Content-Range": f"bytes */{len(blob.data)}"}, b"")
            return
        body: bytes | memoryview = blob.data[start:end]
        status = 206 if wanted else 200
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(blob.data)}"
        if fault.html:
            status, body, headers = 200, HTML, {"Content-Type": "text/html; charset=utf-8"}
        elif fault.change:
            body = fault.change(bytes(body), start)
        self._send(status, _changed(headers, fault), body, file, fault)

    def _error(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        codes = {"X-Error-Code": code} if code else {}
        found = {**(headers or {}), **codes, "X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, found, json.dumps({"error": message}).encode())

    def _json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(
            200, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, json.dumps(value).encode()
        )

    def _send(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes | memoryview,
        file: str = "",
        fault: Fault = NO_FAULT,
    ) -> None:
        self.send_response(status)
        for name, value in _changed({"Content-Length": str(len(body)), **headers}, fault).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.flush()
        sent = 0
        while sent < len(body):
            if fault.cut_after_bytes is not None and sent >= fault.cut_after_bytes:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault.stall_after_bytes is not None and sent >= fault.stall_after_bytes:
                time.sleep(fault.stall_s)
            sent += self._send_piece(body[sent : sent + self._piece_bytes(sent, fault)], file)

    def _piece_bytes(self, sent: int, fault: Fault) -> int:
        marks = [mark - sent for mark in (fault.cut_after_bytes, fault.stall_after_bytes) if mark and mark > sent]
        return min([_PIECE_BYTES, *marks])

    def _send_piece(self, piece: bytes | memoryview, file: str) -> int:
        self.connection.sendall(piece)
        if file:
            with self.hub.lock:
                self.hub.served[file] += len(piece)
        if self.hub.bytes_per_s:
            time.sleep(len(piece) / self.hub.bytes_per_s)
        return len(piece)


def _changed(headers: Mapping[str, str], fault: Fault) -> dict[str, str]:
    merged: dict[str, str | None] = {**headers, **fault.headers}
    return {name: value for name, value in merged.items() if value is not None}
