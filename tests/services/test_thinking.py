from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.core import Message
from qwenctl.services.thinking import Piece, ThinkingSplitter, soft_switch, split_reasoning


def split(deltas: list[str], *, starts_inside: bool = False) -> tuple[list[Piece], bool]:
    splitter = ThinkingSplitter(starts_inside=starts_inside)
    pieces = [piece for delta in deltas for piece in splitter.feed(delta)] + splitter.finish()
    assert all(piece.text for piece in pieces)
    merged = [Piece(kind, "".join(piece.text for piece in run)) for kind, run in groupby(pieces, lambda p: p.kind)]
    return merged, splitter.closed


def pieces(reasoning: str, answer: str) -> list[Piece]:
    return [Piece("reasoning", reasoning)] * bool(reasoning) + [Piece("answer", answer)] * bool(answer)


@pytest.mark.parametrize(
    ("text", "starts_inside", "reasoning", "answer", "closed"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, "hm", "Yes.", True),  # hybrid
        ("hm\n\nwell\n</think>\n\nYes.", True, "hm\n\nwell", "Yes.", True),  # Thinking-2507
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes.", True),  # switched off by /no_think
        ("\n</think>\n\nYes.", True, "", "Yes.", True),
        ("Yes.", False, "", "Yes.", True),  # never thinks
        ("", False, "", "", True),
        ("  Yes.\n", False, "", "  Yes.\n", True),
        (" \n<think>hm</think>Yes.", False, "hm", "Yes.", True),
        ("<think>\nhm\n\n", False, "hm", "", False),  # cut off
        ("hm </thi", True, "hm </thi", "", False),
        ("", True, "", "", False),
        ("<thi", False, "", "<thi", True),
        ("<think", False, "", "<think", True),
        ("<think>a</think>\n\n\n b\n<think>c</think>", False, "a", " b\n<think>c</think>", True),
        ("Use <think> and </think>.", False, "", "Use <think> and </think>.", True),
        ("a <think> b</think>c</think>d", True, "a <think> b", "c</think>d", True),
        ("a </ think> <</think>b", True, "a </ think> <", "b", True),
        ("<think>\n  if x:\n    y  \n\n</think>z", False, "if x:\n    y", "z", True),
    ],
)
def test_split(text: str, starts_inside: bool, reasoning: str, answer: str, closed: bool) -> None:
    expected = (pieces(reasoning, answer), closed)
    assert split([text], starts_inside=starts_inside) == expected
    assert split(list(text), starts_inside=starts_inside) == expected


FRAGMENTS = st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", "\n", " ", "a", "é👋", "</thi", "<think"])


@settings(deadline=None)
@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.lists(st.integers(0, 60)), st.booleans())
def test_the_borders_of_deltas_make_no_difference(text: str, cuts: list[int], starts_inside: bool) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    deltas = [text[start:end] for start, end in pairwise(borders)]
    assert split(deltas, starts_inside=starts_inside) == split([text], starts_inside=starts_inside)


@settings(deadline=None)
@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_nothing_but_tags_and_white_space_is_lost(text: str) -> None:
    for starts_inside in (True, False):
        found, _ = split([text], starts_inside=starts_inside)
        kept = "".join("".join(piece.text for piece in found).split())
        bare = "".join(text.split())
        without_tags = bare.removeprefix("<think>") if not starts_inside else bare
        candidates = {bare, without_tags, without_tags.replace("</think>", "", 1), bare.replace("</think>", "", 1)}
        assert kept in candidates


def test_text_is_not_held_back_without_need() -> None:
    splitter = ThinkingSplitter(starts_inside=True)
    assert splitter.feed("one") == [Piece("reasoning", "one")]
    assert splitter.feed(" two</") == [Piece("reasoning", " two")]
    assert not splitter.in_answer
    assert splitter.feed("think>") == []
    assert splitter.in_answer
    assert splitter.feed("\n\nYes") == [Piece("answer", "Yes")]
    assert splitter.feed("\n<think>") == [Piece("answer", "\n<think>")]


def test_split_reasoning_of_a_whole_message() -> None:
    assert split_reasoning("<think>\nhm\n</think>\n\nYes.") == ("hm", "Yes.")
    assert split_reasoning("Yes.") == (None, "Yes.")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("user", "Hello")], None),
        ([("user", "Hello /no_think")], False),
        ([("user", "/think Hello")], True),
        ([("user", "a /no_think b /think")], True),
        ([("system", "/no_think"), ("user", "Hello")], False),
        ([("system", "/no_think"), ("user", "Hello /think")], True),
        ([("user", "a /think"), ("assistant", "b /no_think"), ("user", "c")], True),
        ([("user", "ls /think/no_think and http://x/think")], None),
        ([("user", "Think /no_thinking")], None),
        ([("user", "Hello /no_think.")], False),
    ],
)
def test_the_latest_soft_switch_wins(messages: list[tuple[str, str]], expected: bool | None) -> None:
    assert soft_switch([Message(role, text) for role, text in messages]) is expected  # type: ignore[arg-type]
