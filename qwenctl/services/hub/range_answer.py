"""What a server's answer to a request for a range must be, before a byte of it is believed. Pure.

    the hub        302, X-Repo-Commit, X-Linked-Etag (SHA-256 of the file), X-Linked-Size, Location: …  → storage
    the hub        206, X-Repo-Commit, ETag (Git's hash)                                 small files, served by itself
    the storage    206, Content-Range: bytes 0-1023/4096, Content-Length: 1024

Header names as huggingface_hub's constants.py and file_download.py read them (2.4.0). Status codes and Content-Range:
RFC 9110, sections 14.4 and 15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from quant.shown import shown
from qwenctl.errors import HubAccessRefused, HubError, HubUnreachable, RemoteFileChanged
from qwenctl.services.hub.remote_file import RemoteFile

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MAX_CHANGED_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: where they begin and how many there are."""

    offset_bytes: int
    n_bytes: int

    @property
    def header(self) -> str:
        """The value of a Range header."""
        return f"bytes={self.offset_bytes}-{self.offset_bytes + self.n_bytes - 1}"


class UnusableAnswer(Exception):
    """An answer that cannot be used. The request may be tried again.

    Args:
        error: what to raise when patience ends.
        max_attempts: after which it does, if sooner than usual.
        is_stale: the place in storage that the hub named is to be asked for again.
    """

    def __init__(self, error: HubError, max_attempts: int | None = None, *, is_stale: bool = True) -> None:
        super().__init__(error.message)
        self.error = error
        self.max_attempts = max_attempts
        self.is_stale = is_stale
        self.asked_s: float | None = None  # the seconds that the server wants us to stay away


def check_status(remote: RemoteFile, status: int, headers: Mapping[str, str], server: str, *, is_hub: bool) -> None:
    """Raise unless the server gives the file or a part of it.

    Args:
        remote: the file asked for.
        status: of the answer.
        headers: of the answer.
        server: its name, for messages.
        is_hub: it is the hub itself, to which the token went; storage answers 403 when a signed address is too old.

    Raises:
        HubAccessRefused: final.
        RemoteFileChanged: final: the hub does not have it any more.
        UnusableAnswer: anything else that is not the file.
    """
    if status in (200, 206):
        return
    if is_hub and status in (401, 403):
        raise _refused(remote, status, headers)
    if is_hub and status in (404, 410):
        raise RemoteFileChanged(
            f"{remote.name}: not on {server} any more at commit {remote.commit[:8]} ({status})",
            "pull it again without @revision to get the newest",
        )
    if status == 416:
        raise _changed(remote, f"{server} says that the file ends before byte {remote.n_bytes:,}")
    raise UnusableAnswer(
        HubUnreachable(
            f"{remote.name}: {server} answers {status} {_phrase(status)}",
            "what was fetched is kept: give the same command again later",
        ),
        is_stale=status not in (408, 429),
    )


def _refused(remote: RemoteFile, status: int, headers: Mapping[str, str]) -> HubAccessRefused:
    page = remote.url.split("/resolve/")[0]
    if headers.get("X-Error-Code") == "GatedRepo":
        return HubAccessRefused(
            f"{remote.repo_id} is gated: its owner gives access to those who accept its terms",
            f"accept them at {page}, then set HF_TOKEN to a token of yours with read access",
        )
    if status == 401:
        hint = "set HF_TOKEN to a valid token with read access"
        return HubAccessRefused(f"{remote.name}: the hub wants a token, or does not know this one (401)", hint)
    message = shown(headers["X-Error-Message"]) if headers.get("X-Error-Message") else "Forbidden"
    return HubAccessRefused(f"{remote.name}: the hub refuses: {message} (403)", f"see {page} for who may read it")


def check_identity(remote: RemoteFile, headers: Mapping[str, str]) -> None:
    """Raise if the hub's own answer speaks of another file than the one that was pinned.

    Hashes are compared with hashes: a mirror's own kind of ETag proves nothing either way.

    Raises:
        UnusableAnswer: another commit, size or hash.
    """
    commit = headers.get("X-Repo-Commit")
    if commit and commit != remote.commit:
        raise _changed(remote, f"the hub answers for commit {shown(commit)} instead of {remote.commit}")
    size = headers.get("X-Linked-Size")
    if size and size != str(remote.n_bytes):
        raise _changed(remote, f"the hub says it has {shown(size)} bytes, not {remote.n_bytes:,}")
    etag = plain_etag(headers.get("X-Linked-Etag") or headers.get("ETag"))
    known = {remote.etag, remote.sha256, remote.git_oid} - {None}
    lengths = {len(value) for value in (remote.sha256, remote.git_oid) if value}
    comparable = remote.etag is not None or (bool(_HASH.fullmatch(etag)) and len(etag) in lengths)
    if etag and comparable and etag not in known:
        raise _changed(remote, f"its ETag was {min(map(str, known), default='')}, is {shown(etag)}")


def check_storage_etag(remote: RemoteFile, first: str | None, headers: Mapping[str, str]) -> None:
    """Raise if storage speaks of other contents than in its first answer, or than the hub does.

    Storage has its own kind of ETag, which need not be a hash; but the same contents have the same one.

    Raises:
        UnusableAnswer: it has changed.
    """
    etag = plain_etag(headers.get("ETag"))
    if remote.sha256 and len(etag) == len(remote.sha256) and etag != remote.sha256:
        raise _changed(remote, f"storage gives it with the hash {shown(etag)} instead of {remote.sha256}")
    if first is not None and etag != plain_etag(first):
        raise _changed(remote, f"its ETag in storage was {shown(plain_etag(first))}, is {shown(etag)}")


def check_range(remote: RemoteFile, span: Span, status: int, headers: Mapping[str, str], server: str) -> None:
    """Raise unless the body will be exactly the bytes of `span`.

    Raises:
        UnusableAnswer: the whole file where a part was asked for, a web page, another part, another length.
    """
    if headers.get("Content-Encoding", "identity") != "identity":
        raise _nonsense(remote, f"{server} sends it encoded as {shown(headers['Content-Encoding'])}")
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if not match:
            raise _nonsense(remote, f"{server} does not say which part it sends")
        first, last = int(match[1]), int(match[2])
        if (first, last) != (span.offset_bytes, span.offset_bytes + span.n_bytes - 1):
            raise _nonsense(remote, f"{server} sends bytes {first}-{last} instead of {span.header[6:]}")
        if match[3] not in ("*", str(remote.n_bytes)):
            raise _changed(remote, f"{server} has a file of {int(match[3]):,} bytes, not {remote.n_bytes:,}")
    elif span != Span(0, remote.n_bytes):
        raise _nonsense(remote, f"{server} sends the whole file where a part was asked for{_page(headers)}")
    length = headers.get("Content-Length")
    if length is not None and length.strip() != str(span.n_bytes):
        raise _nonsense(remote, f"{server} sends {shown(length)} bytes instead of {span.n_bytes:,}{_page(headers)}")


def plain_etag(value: str | None) -> str:
    """Return an ETag without its quotes and its mark of weakness; "" for none."""
    return (value or "").strip().removeprefix("W/").strip('"')


def _page(headers: Mapping[str, str]) -> str:
    return ", a web page" if headers.get("Content-Type", "").startswith("text/html") else ""


def _nonsense(remote: RemoteFile, detail: str) -> UnusableAnswer:
    hint = "a proxy or a log-in page may be in the way; what was fetched is kept"
    return UnusableAnswer(HubUnreachable(f"{remote.name}: {detail}", hint), _MAX_CHANGED_ATTEMPTS)


def _changed(remote: RemoteFile, detail: str) -> UnusableAnswer:
    hint = "pull it again; --restart discards what was fetched of the other one"
    return UnusableAnswer(RemoteFileChanged(f"{remote.name}: {detail}", hint), _MAX_CHANGED_ATTEMPTS)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
