"""Frames and values between the engine's process and its parent: what is sent arrives, and nothing else does."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.errors import DamagedFile, GgufError, NotEnoughDisk
from qwenctl.core import Finished, FinishReason, GenerationRequest, ModelInfo, SamplingParams, TextDelta, Timing, Usage
from qwenctl.errors import DoesNotFit, GenerationFailed, InvalidRequest, PromptTooLong
from qwenctl.services import engine_messages
from qwenctl.services.engine_errors import decode_error, encode_error
from qwenctl.services.engine_messages import (
    MessageError,
    MessageTooLarge,
    decode,
    decode_events,
    frame_of,
    read_frame,
)
from qwenctl.services.engine_options import EngineOptions

ODD_TEXT = 'ünï 👋 \0 \u2028 "quoted" \ud800 half of a pair\n'
INFO = ModelInfo(
    "/m.gguf", "m", "qwen3moe", 1, 2, 3, 4, 5, 6, 7, 8, None, {"temp": 0.5, "top_k": float("inf")}, "", "x"
)


def sent(value: object) -> Any:
    """Send `value` and return what arrives, parsed."""
    message = read_frame(io.BytesIO(frame_of({"value": value})).read)
    assert message is not None
    return message["value"]


requests = st.builds(
    GenerationRequest,
    st.text(),
    st.lists(st.integers(0, 1 << 31)).map(tuple),
    st.builds(
        SamplingParams,
        temperature=st.floats(0, 100),
        top_k=st.integers(0, 100),
        seed=st.none() | st.integers(0, 0xFFFF_FFFE),
        grammar=st.none() | st.text(),
    ),
    st.none() | st.integers(1, 1 << 20),
    st.lists(st.text()).map(tuple),
)


@given(requests)
def test_requests_arrive_as_they_were_sent(request: GenerationRequest) -> None:
    assert decode(GenerationRequest, sent(request)) == request


def test_everything_else_arrives_as_it_was_sent() -> None:
    options = EngineOptions(n_ctx=64, n_parallel=2, cache_type_v="q8_0", flash_attention=False, rpc=("a:1", "b:2"))
    assert decode(EngineOptions, sent(options)) == options
    assert decode(ModelInfo, sent(INFO)) == INFO
    usage, timing = Usage(1, 2, 3), Timing(0.5, 1.0, 2.0, 7)
    events = [TextDelta("a", ODD_TEXT, 3), Finished("a", FinishReason.ERROR, usage, timing, ODD_TEXT)]
    assert decode_events(sent(events)) == events
    assert decode(str, sent(ODD_TEXT)) == ODD_TEXT


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (GenerationRequest, None),
        (GenerationRequest, {}),
        (GenerationRequest, sent(GenerationRequest("a", (1,))) | {"extra": 1}),
        (GenerationRequest, sent(GenerationRequest("a", (1,))) | {"prompt_tokens": ["1"]}),
        (GenerationRequest, sent(GenerationRequest("a", (1,))) | {"prompt_tokens": [True]}),
        (GenerationRequest, sent(GenerationRequest("a", (1,))) | {"prompt_tokens": "12"}),
        (GenerationRequest, sent(GenerationRequest("a", (1,))) | {"max_tokens": 1.0}),
        (SamplingParams, sent(SamplingParams()) | {"temperature": -1}),
        (EngineOptions, sent(EngineOptions()) | {"n_ctx": 0}),
        (EngineOptions, sent(EngineOptions()) | {"cache_type_k": "q9"}),
        (EngineOptions, sent(EngineOptions()) | {"rpc": ["nowhere"]}),
        (EngineOptions, sent(EngineOptions()) | {"repack": 1}),
        (ModelInfo, sent(INFO) | {"sampling_defaults": [1]}),
        (ModelInfo, sent(INFO) | {"sampling_defaults": {"temp": "hot"}}),
        (Finished, {"request_id": "a", "reason": [], "usage": {}, "timing": {}, "error": None}),
        (int, True),
        (str, 1),
    ],
)
def test_what_is_not_meant_is_refused(kind: type[object], value: object) -> None:
    with pytest.raises(MessageError):
        decode(kind, value)


@pytest.mark.parametrize(
    "value", [None, [None], [{}], [{"request_id": "a"}], [sent(TextDelta("a", "b", 1)) | {"text": 1}]]
)
def test_what_are_no_events_is_refused(value: object) -> None:
    with pytest.raises(MessageError):
        decode_events(value)


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    "stream",
    [
        b"\0",
        b"\0\0\0\5{}",
        b"\xff\xff\xff\xff{}",
        _framed(b""),
        _framed(b"[1]"),
        _framed(b"{'a': 1}"),
        _framed(b"\xff\xfe{}"),
        _framed(b"[" * 200_000),
        _framed(b'{"a": ' * 100_000),
    ],
)
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(MessageError):
        read_frame(io.BytesIO(stream).read)


@given(st.binary(max_size=64))
def test_noise_is_refused_or_ends(stream: bytes) -> None:
    read = io.BytesIO(stream).read
    try:
        while read_frame(read) is not None:
            pass
    except MessageError:
        return


def test_frames_arrive_in_any_pieces_and_end_with_the_stream() -> None:
    stream = io.BytesIO(frame_of({"id": 1}) + frame_of({"id": 2, "text": "x" * 100}))

    def one_byte(_: int) -> bytes:
        return stream.read(1)

    assert read_frame(one_byte) == {"id": 1}
    assert read_frame(one_byte) == {"id": 2, "text": "x" * 100}
    assert read_frame(one_byte) is None


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_messages, "MAX_FRAME_BYTES", 20)
    assert frame_of({"text": "x" * 8})
    with pytest.raises(MessageTooLarge, match="21 bytes"):
        frame_of({"text": "x" * 9})
    with pytest.raises(MessageError, match="at most 20"):
        read_frame(io.BytesIO(_framed(b"{" + b" " * 30 + b"}")).read)


@pytest.mark.parametrize(
    "error",
    [
        PromptTooLong(600, 512),
        InvalidRequest("no", "yes"),
        GenerationFailed(ODD_TEXT),
        DoesNotFit("too small", None),
        GgufError(Path("/m.gguf"), "bad magic", "convert it again"),
        NotEnoughDisk(Path("/"), 2, 1),
        DamagedFile(Path("/m.gguf"), ("a", "b")),
    ],
)
def test_errors_arrive_with_class_words_and_numbers(error: Exception) -> None:
    arrived = decode_error(sent(encode_error(error)))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_a_bug_arrives_with_the_traceback_of_the_other_side() -> None:
    def blunder() -> None:
        raise KeyError("oops")

    with pytest.raises(KeyError) as caught:
        blunder()
    arrived = decode_error(sent(encode_error(caught.value)))
    assert type(arrived) is RuntimeError
    assert "in blunder" in str(arrived)
    assert "KeyError: 'oops'" in str(arrived)
    assert isinstance(decode_error(sent(encode_error(AssertionError("books")))), AssertionError)
    assert isinstance(decode_error(sent(encode_error(MemoryError()))), MemoryError)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"class": "SystemExit", "attributes": {"message": "x"}},
        {"class": ["PromptTooLong"], "attributes": {"message": "x"}},
        {"class": "PromptTooLong", "attributes": {}},
        {"class": "PromptTooLong", "attributes": [1]},
    ],
)
def test_an_error_of_no_known_kind_is_refused(value: object) -> None:
    with pytest.raises(MessageError):
        decode_error(json.loads(json.dumps(value)))
