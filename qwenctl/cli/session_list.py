"""Saved chats as a table and as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from qwenctl.cli.output import Output
from qwenctl.services.session import SessionHead


def print_sessions(heads: Sequence[SessionHead], output: Output, *, numbered: bool = False) -> None:
    """Write one line a session, or a JSON list.

    Args:
        heads: in the order to show.
        output: the sink.
        numbered: with a number in front, to choose by.
    """
    if output.json_mode:
        output.data([session_document(head) for head in heads])
        return
    rows = [
        (head.session_id, local_time(head.updated_s), head.n_exchanges, head.model_name, head.title) for head in heads
    ]
    header = ("id", "last turn", "turns", "model", "title")
    if numbered:
        output.table(
            ("", *header), [(number, *row) for number, row in enumerate(rows, 1)], right=(0, 3), cuts_last=True
        )
    else:
        output.table(header, rows, right=(2,), cuts_last=True)


def session_document(head: SessionHead) -> dict[str, Any]:
    """Return what `--json` says of a session; times are ISO 8601 in UTC."""
    values = asdict(head)
    created_s, updated_s = values.pop("created_s"), values.pop("updated_s")
    times = {"created_at": iso_time(created_s), "updated_at": iso_time(updated_s)}
    return {"id": values.pop("session_id")} | values | times


def iso_time(seconds: float) -> str:
    """Return a time as 2026-11-26T09:42:39Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def local_time(seconds: float) -> str:
    """Return a time as people read it, in the zone that this machine is in: 2026-11-26 09:42."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
