"""A load for a server with OpenAI's chat completions: so many requests at a time, and when each piece of text came.

Light, because it shares the machine with the server: sockets of asyncio without a client's library; what arrives is
noted with its time, and taken apart when a request is over. HTTP/1.1, connections are kept (RFC 9112); a stream's
events are lines "data: {…}" (the server-sent events of the HTML standard). Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from qwenctl.errors import GenerationFailed, InvalidRequest

# A piece of text in an event, whichever field it comes in; an empty one is a beginning or an end.
_TEXT = re.compile(rb'"(?:content|reasoning_content|reasoning|text)" ?: ?"(?!")')
_EVENT = re.compile(rb"^data: ?(\{.*\})\r?$", re.MULTILINE)
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.MULTILINE | re.IGNORECASE)
_CLOSES = re.compile(rb"^connection: *close", re.MULTILINE | re.IGNORECASE)
LIMIT_S = 300.0  # for an answer
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what they have in common.

    Raises:
        InvalidRequest: the address is not one of plain HTTP.
    """

    url: str  # "http://127.0.0.1:8080", or with /v1
    model: str | None = None
    api_key: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # more fields of each request's body

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise InvalidRequest(f"{self.url} is not an address of plain HTTP", "as in --url http://127.0.0.1:8080")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    def message(self, prompt: str, max_tokens: int, *, stream: bool) -> bytes:
        """Return a request as it goes over the wire."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": stream,
            **({"stream_options": {"include_usage": True}} if stream else {}),
            **({"model": self.model} if self.model else {}),
            **self.extra,
        }
        content = json.dumps(body).encode()
        base = urlsplit(self.url).path.rstrip("/").removesuffix("/v1")
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head = (
            f"POST {base}/v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode("latin-1", "replace") + content


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, by the clock of whoever sent it."""

    started_s: float
    ended_s: float
    text_times_s: tuple[float, ...]  # of each event with text; of an answer in one piece, none
    n_prompt_tokens: int
    n_generated_tokens: int  # as the server counts them; where it does not, events with text
    error: str | None = None  # the request failed

    @property
    def first_text_s(self) -> float | None:
        """Seconds until the first text."""
        return self.text_times_s[0] - self.started_s if self.text_times_s else None


async def run_load(
    target: Target, prompts: Sequence[str], concurrency: int, max_tokens: int, *, stream: bool
) -> list[Answered]:
    """Send all prompts, `concurrency` at any time, each as soon as one before it is answered.

    Raises:
        GenerationFailed: nobody listens there.
    """
    waiting = iter(prompts)
    answers: list[Answered] = []

    async def client() -> None:
        connection = await _connect(target)
        try:
            for prompt in waiting:
                message = target.message(prompt, max_tokens, stream=stream)
                is_new = False
                while not is_new:
                    if connection.is_lost:
                        connection.close()
                        connection, is_new = await _connect(target), True
                    answer = await connection.ask(message, stream=stream)
                    if not connection.was_stale:
                        break  # else once more, on a new one
                answers.append(answer)
        finally:
            connection.close()

    try:
        async with asyncio.TaskGroup() as clients:
            for _ in range(min(concurrency, len(prompts))):
                clients.create_task(client())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return answers


async def _connect(target: Target) -> _Connection:
    host, port = target.address
    try:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port)
    except OSError as error:
        raise GenerationFailed(f"nobody answers at {host}:{port}: {error}", "is the server running there?") from error
    return connection


class _Connection(asyncio.Protocol):
    """A connection with one request at a time on it."""

    def __init__(self) -> None:
        self.is_lost = False
        self.was_stale = False  # it was closed without a word on the last request, maybe before that had come
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._arrivals: list[tuple[float, int]] = []  # (time, bytes so far)
        self._end = -1  # bytes of the answer; -1: not known yet; 0: up to the last chunk
        self._done: asyncio.Future[None] | None = None

    async def ask(self, message: bytes, *, stream: bool) -> Answered:
        """Send a request and return what became of it."""
        self._data, self._arrivals, self._end, self.was_stale = bytearray(), [], -1, False
        self._done = asyncio.get_running_loop().create_future()
        started_s = time.perf_counter()
        if self._transport is None or self.is_lost:
            self._done.set_result(None)
        else:
            self._transport.write(message)
        try:
            await asyncio.wait_for(self._done, LIMIT_S)
        except TimeoutError:
            self.is_lost = True
            return Answered(started_s, time.perf_counter(), (), 0, 0, f"no answer within {LIMIT_S:g} s")
        self.was_stale = self.is_lost and not self._data
        return _answered(started_s, time.perf_counter(), bytes(self._data), self._arrivals, stream=stream)

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._data += data
        self._arrivals.append((time.perf_counter(), len(self._data)))
        if self._end < 0 and (end_of_head := self._data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._data, 0, end_of_head)
            self._end = end_of_head + 4 + int(length[1]) if length else 0
            self.is_lost = _CLOSES.search(self._data, 0, end_of_head) is not None
        is_over = len(self._data) >= self._end if self._end > 0 else self._data.endswith(_LAST_CHUNK)
        if self._end >= 0 and is_over and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        """Called by asyncio."""
        self.is_lost = True
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _answered(
    started_s: float, ended_s: float, data: bytes, arrivals: Sequence[tuple[float, int]], *, stream: bool
) -> Answered:
    """Take apart what came."""
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        what = f"{status}: {body[:200].decode('utf-8', 'replace')}" if data else "the connection was lost"
        return Answered(started_s, ended_s, (), 0, 0, what)
    if not stream:
        try:
            usage = json.loads(body)["usage"]
        except (ValueError, KeyError, TypeError):
            return Answered(started_s, ended_s, (), 0, 0, "no answer in JSON with its usage")
        return Answered(started_s, ended_s, (), usage["prompt_tokens"], usage["completion_tokens"])
    times = _text_times(data, arrivals)
    usage = next((one for one in map(_usage_of, reversed(_EVENT.findall(data))) if one), {})
    n_generated = usage.get("completion_tokens", len(times))
    error = None if b"data: [DONE]" in data else "the stream ended without [DONE]"
    return Answered(started_s, ended_s, times, usage.get("prompt_tokens", 0), n_generated, error)


def _text_times(data: bytes, arrivals: Sequence[tuple[float, int]]) -> tuple[float, ...]:
    """Return when each event with text had come."""
    times: list[float] = []
    number = 0
    for event in _EVENT.finditer(data):
        while arrivals[number][1] < event.end():
            number += 1
        if _TEXT.search(event[1]):
            times.append(arrivals[number][0])
    return tuple(times)


def _usage_of(event: bytes) -> dict[str, int]:
    try:
        usage = json.loads(event).get("usage")
    except ValueError:
        return {}
    return usage if isinstance(usage, dict) else {}
