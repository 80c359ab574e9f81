"""The lines of a batch's output: OpenAI's batch form, with a member of our own by which a later run knows them again.

    {"id": "batch_req_…", "custom_id": …, "response": {…, "body": chat completion} or null, "error": null or {…},
     "qwenctl": {"request_sha256": …, "settings": …, …}}

Knows no files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BEGIN = b'{"id": "batch_req_'


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Which line of the input a record answers, and under which settings (a digest of model and options)."""

    custom_id: str
    request_sha256: str
    settings: str


@dataclass(frozen=True, slots=True)
class EarlierRecord:
    """What a later run needs to know of a record."""

    key: RecordKey
    is_error: bool
    n_spent_tokens: int = 0  # of prompts and answers, failed attempts included
    n_generated_tokens: int | None = None  # of its answers; None: an error, or nothing is generated for it
    n_replies: int = 0


def answer_record(key: RecordKey, body: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an answered line; `ours` is added to our own member."""
    response = {"status_code": 200, "request_id": f"req_{record_name(key)}", "body": body}
    return _record(key, response, None, ours)


def error_record(
    key: RecordKey, *, code: str, message: str, line: int, ours: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the record of an input line that could not be answered; `ours` is added to our own member."""
    return _record(key, None, {"code": code, "message": message, "line": line}, ours or {})


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Return `record` as one line."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def decode_record(line: bytes) -> EarlierRecord | None:
    """Return what a complete line of an earlier run says; None when it is not one of ours."""
    try:
        record = json.loads(line)
        ours = record["qwenctl"]
        key = RecordKey(record["custom_id"], ours["request_sha256"], ours["settings"])
        is_error = record["error"] is not None
        n_spent = ours.get("spent_tokens")
        body = {} if is_error else record["response"]["body"]
        usage = body.get("usage") or {}
        n_spent = usage.get("total_tokens") if n_spent is None else n_spent
        n_generated, n_replies = usage.get("completion_tokens"), len(body.get("choices") or ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    texts = (key.custom_id, key.request_sha256, key.settings)
    if not all(isinstance(text, str) for text in texts):
        return None
    n_generated = n_generated if isinstance(n_generated, int) else None
    return EarlierRecord(key, is_error, n_spent if isinstance(n_spent, int) else 0, n_generated, n_replies)


def is_torn_record(fragment: bytes) -> bool:
    """Whether bytes without a line break at the end of a file can be what is left of a record.

    A killed process leaves a record's beginning, a power failure may leave zeros.
    """
    return fragment.startswith(_BEGIN) or _BEGIN.startswith(fragment) or not fragment.strip(b"\0")


def _record(key: RecordKey, response: Any, error: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"batch_req_{record_name(key)}",  # first: `is_torn_record` knows a record by its beginning
        "custom_id": key.custom_id,
        "response": response,
        "error": error,
        "qwenctl": {"request_sha256": key.request_sha256, "settings": key.settings, **more},
    }


def record_name(key: RecordKey) -> str:
    """Return what ids of an answer to this line end in."""
    return hashlib.sha256(f"{key.custom_id}\n{key.request_sha256}".encode()).hexdigest()[:24]
