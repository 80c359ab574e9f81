"""What a test hub can do wrong with one exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HTML = b"<!doctype html><html><head><title>Log in</title></head><body>Please accept our terms.</body></html>\n"


@dataclass(frozen=True)
class Exchange:
    """One request, as the hub sees it. `number` counts from 1 over the requests for contents of files."""

    number: int
    server: str  # "hub" or "storage"
    method: str
    file: str  # "org/repo/path"; "" where no file is meant
    target: str  # path and query of the request
    offset_bytes: int = 0
    n_bytes: int = 0  # of the range asked for
    has_token: bool = False


@dataclass(frozen=True)
class Fault:
    """How an answer differs from the right one. Several fields may be set.

    Args:
        status: answer with this status and nothing of the file; e.g. 429, 503.
        headers: set these; None takes one away.
        html: send a web page with status 200.
        ignore_range: send the whole file with status 200.
        change: applied to the body, which is (bytes of the range, offset in the file).
        cut_after_bytes: close the connection behind so many bytes of the body.
        stall_after_bytes: send nothing for `stall_s` behind so many bytes of the body.
        delay_s: wait before anything is sent.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    html: bool = False
    ignore_range: bool = False
    change: Callable[[bytes, int], bytes] | None = None
    cut_after_bytes: int | None = None
    stall_after_bytes: int | None = None
    stall_s: float = 0.0
    delay_s: float = 0.0


NO_FAULT = Fault()
