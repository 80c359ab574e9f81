"""Strict JSON: each refusal with its cause, and everything else exactly as `json` reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import JsonFileError
from quant.json_file import parse_json_object, read_json_object

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(), _VALUES, max_size=4), st.booleans())
def test_reads_what_json_writes(value: dict[str, object], ascii_only: bool) -> None:
    assert parse_json_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON: Expecting value at line 1 column 1"),
        (b'{"a":1}\n}', "not JSON: Extra data at line 2 column 1"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":"\x01"}', "not JSON: Invalid control character"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON: Unexpected UTF-8 BOM"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8: byte 0xed at offset 6"),
        (b'{"\\ud800":1}', r"the lone surrogate \\ud800"),
        (b'{"a":["\\udfff"]}', r"the lone surrogate \\udfff"),
        (b"[1]", "holds a JSON array where an object must be"),
        (b"1", "holds a JSON number where"),
        (b"null", "holds a JSON null where"),
        (b"true", "holds a JSON boolean where"),
        (b'"a"', "holds a JSON string where"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b'{"a":1e400}', "the number 1e400 does not fit a double"),
        (b'{"a":' + b"9" * 41 + b"}", "an integer of 41 digits"),
        (b'{"a":1,"a":1}', "the key 'a' appears twice"),
        (b'{"b":{"a":1,"\\u0061":2}}', "the key 'a' appears twice"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 1_000_000, "nested too deeply"),
    ],
)
def test_refusals(text: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json_object(text)
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(JsonFileError, match=message) as caught:
        read_json_object(path, 10_000_000)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_escaped_pair_of_surrogates_is_a_character() -> None:
    assert parse_json_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "😀"}


def test_length_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a":1}')
    assert read_json_object(path, 7) == {"a": 1}
    with pytest.raises(JsonFileError, match="longer than the 6 bytes allowed"):
        read_json_object(path, 6)


def test_long_keys_are_cut_in_messages() -> None:
    key = "k" * 100_000
    with pytest.raises(ValueError, match="appears twice") as caught:
        parse_json_object(f'{{"{key}":1,"{key}":2}}'.encode())
    assert len(str(caught.value)) < 200


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(JsonFileError, match="No such file"):
        read_json_object(tmp_path / "missing.json", 100)
    with pytest.raises(JsonFileError, match="not a regular file"):
        read_json_object(tmp_path, 100)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(JsonFileError, match="not a regular file"):
        read_json_object(tmp_path / "pipe.json", 100)
