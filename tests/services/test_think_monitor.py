from __future__ import annotations

from collections.abc import Iterable

import pytest

from qwenctl.core import ThinkBlock
from qwenctl.services.think_monitor import ThinkMonitor, thinking_limit


def monitor(*, inside: bool = True, limit: int | None = None, loop_guard: bool = True) -> ThinkMonitor:
    return ThinkMonitor(ThinkBlock(inside, loop_guard=loop_guard), limit)


def feed(one: ThinkMonitor, pieces: Iterable[str]) -> bytes:
    rest, tokens = b"", []
    for piece in pieces:
        tokens.append(hash(piece) % 1000)
        rest = one.take(piece.encode(), tokens)
    return rest


@pytest.mark.parametrize(
    ("budget", "n_reply", "expected"),
    [
        (None, 32_768, 32_768 - 28 - 512),  # what an answer can spare
        (None, 100, 100 - 28 - 25),
        (None, 20, None),  # too short for both: left alone
        (64, 32_768, 64),
        (38_912, 55_296, 38_912),
        (38_912, 4096, 4096 - 28 - 512),
        (64, 30, 0),
        (0, 4096, 0),
    ],
)
def test_the_limit_leaves_room_for_an_answer(budget: int | None, n_reply: int, expected: int | None) -> None:
    assert thinking_limit(budget, n_reply, 28) == expected


def test_the_model_closes_the_block_itself() -> None:
    one = monitor(limit=100)
    feed(one, ["hm", "\n", "</th", "ink>"])
    assert (one.is_open, one.is_over, one.end, one.n_tokens) == (False, False, "model", 4)
    feed(one, ["\n", "\n\n"])
    assert not one.is_over
    feed(one, ["Hi"])
    assert one.is_over
    assert one.due is None


@pytest.mark.parametrize("pieces", [["<think>"], ["\n", "<think>\n"], ["<", "thi", "nk>"], [" <think", ">hm"]])
def test_a_block_that_the_reply_opens(pieces: list[str]) -> None:
    one = monitor(inside=False)
    feed(one, pieces)
    assert one.is_open
    assert not one.watches_stops


@pytest.mark.parametrize("pieces", [["Hi"], ["<", "b>"], ["\n", "So, <think>"], ["<thinking>"]])
def test_a_reply_without_a_block(pieces: list[str]) -> None:
    one = monitor(inside=False, limit=0)
    feed(one, pieces)
    assert (one.is_over, one.end, one.due, one.watches_stops) == (True, None, None, True)


def test_a_budget_is_due_after_its_tokens_and_not_before() -> None:
    one = monitor(limit=3)
    feed(one, ["a", "b"])
    assert one.due is None
    feed(one, ["c"])
    assert one.due == "budget"
    one.close("budget")
    assert (one.end, one.is_open, one.due) == ("budget", False, None)


def test_a_budget_of_nothing_is_due_as_soon_as_the_block_is_open() -> None:
    assert monitor(limit=0).due == "budget"
    one = monitor(inside=False, limit=0)
    assert one.due is None
    feed(one, ["<think>"])
    assert one.due == "budget"


def test_asked_for_before_the_block_opens_and_after_it_has_closed() -> None:
    early = monitor(inside=False)
    early.ask()
    assert early.due is None
    feed(early, ["<think>"])
    assert early.due == "asked"
    late = monitor()
    feed(late, ["</think>"])
    late.ask()
    assert late.due is None


def test_loops_are_closed_and_only_where_that_is_wanted() -> None:
    one, unguarded = monitor(), monitor(loop_guard=False)
    for each in (one, unguarded):
        feed(each, ["Wait", ", "] * 200)
    assert (one.due, unguarded.due) == ("loop", None)


def test_what_a_grammar_has_no_say_in() -> None:
    start = monitor(inside=False)
    assert start.is_exempt(b"<think>")
    assert start.is_exempt(b"\n<think>\n")
    assert not start.is_exempt(b"<th")  # it may become something else, and then it would be too late
    one = monitor()
    assert one.is_exempt(b"anything")
    feed(one, ["</think>"])
    assert one.is_exempt(b"\n\n")
    assert not one.is_exempt(b"\n{")
    assert not one.is_exempt(b"")
    feed(one, ["\n"] * 4)
    assert not one.is_exempt(b"\n")  # no endless gap


def test_what_stands_behind_the_closing_tag_in_one_token() -> None:
    one = monitor()
    assert feed(one, ["hm", "</think>\n\nYes"]) == b"\n\nYes"
    assert (one.end, one.is_over) == ("model", True)
