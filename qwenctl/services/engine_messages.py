"""What the engine's process and its parent say to each other: frames of JSON, and how our values travel in them.

    frame          length (4 bytes, big endian) + JSON object (UTF-8, halves of surrogate pairs passed)
    parent → child {"id": 7, "call": "submit", …}              answered once
                   {"call": "cancel", "request_id": "…"}       never answered; "end_thinking" likewise
    child → parent {"id": 7, "value": …} or {"id": 7, "error": {…}}

Values are checked on arrival against the fields and types of the dataclass that they are to become: neither side works
on what the other did not mean. Nothing here can execute anything. Knows no processes and no engine.
"""

from __future__ import annotations

import json
import struct
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from qwenctl.core import GenerationEvent, ModelInfo

T = TypeVar("T")

MAX_FRAME_BYTES = 256 << 20  # a prompt of a million tokens takes 7 MB
_PIECE_BYTES = 1 << 20
_SCALARS = (int, float, str, bool, types.NoneType)


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to `open`: what an engine says of itself once and for all."""

    info: ModelInfo
    placement: str | None
    warnings: tuple[str, ...]


class MessageError(ValueError):
    """A message that is not what it must be."""


class MessageTooLarge(MessageError):
    """A message of more than `MAX_FRAME_BYTES`; it was not sent."""


def frame_of(message: Mapping[str, Any]) -> bytes:
    """Return `message` as a frame. It may hold dataclasses, paths and enumerations of strings.

    Raises:
        MessageTooLarge: it would be longer than a frame may be.
    """
    body = json.dumps(message, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")
    if len(body) > MAX_FRAME_BYTES:
        raise MessageTooLarge(f"{len(body):,} bytes in a message; at most {MAX_FRAME_BYTES:,} are taken")
    return struct.pack(">I", len(body)) + body


def read_frame(read: Callable[[int], bytes]) -> dict[str, Any] | None:
    """Return the next message; None at the end of the stream, where the other side has gone.

    Args:
        read: returns up to as many bytes as it is asked for, b"" at the end.

    Raises:
        MessageError: a frame that is cut off, too long, or holds no JSON object.
    """
    head = _read_exactly(read, 4)
    if not head:
        return None
    n_bytes = struct.unpack(">I", head)[0] if len(head) == 4 else 0
    if n_bytes > MAX_FRAME_BYTES:
        raise MessageError(f"a message of {n_bytes:,} bytes; at most {MAX_FRAME_BYTES:,} are taken")
    body = _read_exactly(read, n_bytes)
    if len(head) < 4 or len(body) < n_bytes:
        raise MessageError("a message that is cut off")
    try:
        message = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"a message that is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise MessageError("a message that is no object")
    return message


def decode(kind: type[T], value: object) -> T:
    """Return `value`, parsed JSON, as a `kind`: a dataclass, or what occurs in one.

    Raises:
        MessageError: it is something else, lacks a field or has one too many, or a constructor refuses it.
    """
    return cast("T", _decode(kind, value, kind.__name__))


def decode_events(value: object) -> list[GenerationEvent]:
    """Return a list of events.

    Raises:
        MessageError: it is something else.
    """
    return list(_decode(tuple[GenerationEvent, ...], value, "events"))


def _plain(value: object) -> object:
    """What JSON knows in place of what it does not know."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _read_exactly(read: Callable[[int], bytes], n_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < n_bytes and (piece := read(min(n_bytes - len(data), _PIECE_BYTES))):
        data += piece
    return bytes(data)


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, where)
    if origin is tuple and isinstance(value, list):
        return _decode_items(get_args(kind)[0], value, where)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _decode(get_args(kind)[1], item, f"{where}.{name}") for name, item in value.items()}
    return _decode_scalar(kind, value, where)


def _decode_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind in _SCALARS and type(value) is kind:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and issubclass(kind, StrEnum) and value in list(kind):
        return kind(value)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    raise MessageError(f"{where} is {_shown(value)}")


def _decode_items(kind: Any, items: list[Any], where: str) -> tuple[Any, ...]:
    if kind in (int, str) and all(type(item) is kind for item in items):
        return tuple(items)  # quick for the tokens of a long prompt
    return tuple(_decode(kind, item, f"{where}[{index}]") for index, item in enumerate(items))


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """Take the first kind that fits. Dataclasses are told apart by the names of their fields."""
    for kind in kinds:
        if is_dataclass(kind) and not _has_fields(kind, value):
            continue
        try:
            return _decode(kind, value, where)
        except MessageError:
            if is_dataclass(kind):
                raise
    raise MessageError(f"{where} is {_shown(value)}")


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    if not _has_fields(kind, value):
        raise MessageError(f"{where} does not have its fields: {_shown(value)}")
    names = _types_of(kind)
    decoded = {name: _decode(names[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**decoded)
    except Exception as error:  # a constructor that checks
        raise MessageError(f"{where}: {error}") from error


def _has_fields(kind: Any, value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == _types_of(kind).keys()


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
