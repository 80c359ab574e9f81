"""Bytes to text: the same whatever the cuts, nothing of a stop string, nothing held too long."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.text_stream import TextStream


def _text(pieces: Iterable[bytes], stop: tuple[str, ...] = ()) -> str:
    stream = TextStream(stop)
    return "".join([*(stream.feed(piece) for piece in pieces), stream.finish()])


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.lists(st.integers(0, 40), max_size=12))
def test_any_cut_of_any_bytes_gives_the_whole_text(data: bytes, cuts: list[int]) -> None:
    assert _text(_cut(data, cuts)) == data.decode("utf-8", "replace")


@given(
    st.text("ab€\n", max_size=24),
    st.lists(st.text("ab€\n", min_size=1, max_size=4), max_size=3).map(tuple),
    st.lists(st.integers(0, 60), max_size=12),
)
def test_stop_strings_end_the_text_at_the_same_place_whatever_the_cuts(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    whole = _text(_cut(text.encode(), []), stop)
    assert _text(_cut(text.encode(), cuts), stop) == whole
    assert not any(one in whole for one in stop)
    assert text.startswith(whole)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple))
def test_what_is_held_back_could_become_a_stop_string(text: str, stop: tuple[str, ...]) -> None:
    stream = TextStream(stop)
    out = "".join(stream.feed(character.encode()) for character in text)
    held = text[len(out) :]
    assert stream.stopped or held == "" or any(one.startswith(held) for one in stop)


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TextStream()
    assert [stream.feed(bytes([byte])) for byte in "🦊".encode()] == ["", "", "", "🦊"]


def test_a_character_that_cannot_be_completed_is_replaced_at_once() -> None:
    stream = TextStream()
    assert stream.feed(b"\xf0\x9f") == ""
    assert stream.feed(b"a") == "\ufffda"
    assert stream.feed(b"\xe2\x82") == ""
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("pieces", "stop", "text"),
    [
        (["Hello\n", "\nUser", ": hi"], ("\n\nUser:",), "Hello"),
        (["one ", "EN", "D two"], ("END",), "one "),
        (["ENENEN", "D"], ("END",), "ENEN"),
        (["abcd"], ("bcd", "c"), "ab"),  # "c" is complete first, however it is cut
        (["abc"], ("bc", "abc"), ""),  # both at once: the longest
        (["no stop"], ("",), "no stop"),
        (["almost EN"], ("END",), "almost EN"),
    ],
)
def test_stop_strings(pieces: list[str], stop: tuple[str, ...], text: str) -> None:
    assert _text([piece.encode() for piece in pieces], stop) == text


def test_nothing_comes_after_a_stop_string() -> None:
    stream = TextStream(("END",))
    assert stream.feed(b"aENDb") == "a"
    assert stream.stopped
    assert stream.feed(b"c") == stream.finish() == ""


def test_stop_strings_that_are_not_watched_for_are_text() -> None:
    stream = TextStream(("ab", "c"))
    assert stream.feed(b"xa") == "x"  # held back: a stop string may follow
    stream.watches_stops = False
    assert stream.feed(b"bc") == "abc"
    stream.watches_stops = True
    assert stream.feed(b"dab") == "d"
    assert stream.stopped_by == "ab"


def test_which_stop_string_it_was() -> None:
    stream = TextStream(("b", "ab", "zz"))
    assert stream.stopped_by is None
    assert stream.feed(b"1ab2") == "1"
    assert stream.stopped_by == "ab"


def test_whether_a_character_is_under_way() -> None:
    stream = TextStream()
    stream.feed("ü".encode()[:1])
    assert stream.splits_character
    stream.feed("ü".encode()[1:])
    assert not stream.splits_character
