"""JSON in pieces: what passes is JSON, and all of it if all of it is."""

from __future__ import annotations

import json

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.tools.json_scanner import JsonScanner

WRITTEN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ALPHABET = '{}[]:,"\\u0dD8c1e+-.truefalsn \n\t\x01é😀'


def scan(pieces: list[str]) -> tuple[list[str], JsonScanner]:
    """Return what passes of the inside of a list."""
    scanner = JsonScanner("[")
    return [scanner.take(piece, down_to=0) if scanner.depth else "" for piece in pieces], scanner


def decoded(text: str) -> object:
    """Return what Python makes of it; None: nothing."""
    try:
        return json.JSONDecoder(strict=False, parse_constant=lambda name: 1 / 0).decode(text)
    except (ValueError, ZeroDivisionError):
        return None


def in_utf8(value: object) -> str:
    """Return its JSON with "?" for halves of surrogate pairs."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


@given(st.lists(WRITTEN, max_size=3), st.booleans(), st.sampled_from([None, 1]))
def test_json_passes_as_it_is(values: list[object], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    passed, scanner = scan(list(text[1:]))
    assert "[" + "".join(passed) == text
    assert (scanner.depth, scanner.is_broken, scanner.held) == (0, False, "")


@given(st.text(ALPHABET, max_size=25))
def test_what_passes_is_the_beginning_of_json(text: str) -> None:
    passed, scanner = scan(list(text))
    for n in range(len(passed) + 1):
        jiter.from_json(("[" + "".join(passed[:n])).encode(), partial_mode="trailing-strings")
    [at_once], other = scan([text])
    assert (at_once, other.is_broken, other.depth) == ("".join(passed), scanner.is_broken, scanner.depth)
    taken = decoded("[" + text.removesuffix(other.held))
    assert (taken is not None) == (other.depth == 0)
    assert in_utf8(taken) == in_utf8(decoded("[" + at_once))


@pytest.mark.parametrize(
    ("pieces", "passed"),
    [
        (['"a', "\n\t", 'b"'], ['"a', "\\n\\t", 'b"']),  # control characters become escapes
        (['"\\', "n"], ['"', "\\n"]),
        (['"\\u00', "e9"], ['"', "\\u00e9"]),
        (['"\\ud83d', "\\", "ude00x"], ['"', "", "\\ud83d\\ude00x"]),  # both halves of a pair at once
        (['"\\ud83d', "x"], ['"', "?x"]),  # a half alone
        (['"\\udE00\\ud83d\\uD83d\\ude00\\\\ud83d"'], ['"??\\uD83d\\ude00\\\\ud83d"']),
        (["12", "3", ","], ["", "", "123,"]),
        (["tr", "ue]"], ["", "true]"]),
    ],
)  # fmt: skip
def test_pieces_are_cut_at_safe_places(pieces: list[str], passed: list[str]) -> None:
    assert scan(pieces)[0] == passed


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000,
        "1 2,",
        "01,",
        "NaN,",
        "1,]",
        '"a" "b"',
        '"\\x"',
        "{]",
        "{,",
        '{"a"}',
        '{"a":1,}',
        "{1}",
        ":",
        "trux,",
        "'a'",
    ],
)
def test_what_is_no_json_breaks(text: str) -> None:
    for pieces in ([text], list(text)):
        passed, scanner = scan(pieces)
        assert scanner.is_broken
        assert len("".join(passed)) < len(text)
