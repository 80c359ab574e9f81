"""What is left out of a prompt that is too long: the middle, at borders, and everything else stays as it was."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.core import Message
from qwenctl.services.overflow.middle_cut import cut_middle
from qwenctl.services.overflow.policy import MiddleCut, fits, room_for_prompt
from qwenctl.services.overflow.text_borders import border_after, border_before, pieces

SENTENCES = "".join(f"This is sentence number {n}. " for n in range(300))
LINES = "".join(f"line {n} of the file\n" for n in range(500))


def count(messages: Sequence[Message]) -> int:
    """Count a token a character, and ten for each message."""
    return sum(10 + len(message.content) for message in messages)


def cut(messages: Sequence[Message], max_tokens: int) -> tuple[list[Message], MiddleCut]:
    result = cut_middle(messages, count(messages), max_tokens, count)
    assert result is not None
    remaining, what = result
    assert count(remaining) == what.n_tokens_after <= max_tokens
    assert what.n_tokens_before == count(messages)
    return remaining, what


@pytest.mark.parametrize(("text", "end"), [(SENTENCES, "."), (LINES, "file")])
def test_the_middle_goes_between_sentences_or_lines(text: str, end: str) -> None:
    [message], what = cut([Message("user", text + "\n\nWhat is it?")], 2000)
    begin, mark, rest = message.content.split("\n\n", 2)
    assert text.startswith(begin)
    assert begin.endswith(end)
    assert (text + "\n\nWhat is it?").endswith(rest)
    assert rest[0] in "Tl"  # the beginning of a sentence, of a line
    assert f"{what.n_cut_characters:,} characters" in mark
    assert "line" in mark
    missing = text[what.first_character - 1 : what.first_character - 1 + what.n_cut_characters]
    assert begin + missing.strip() not in message.content
    assert count([message]) > 1500  # not much more than must go


def test_what_is_said_names_lines_and_characters() -> None:
    _, what = cut([Message("user", LINES)], 3000)
    assert LINES[: what.first_character - 1].count("\n") + 1 == what.first_line
    assert LINES[: what.first_character - 1 + what.n_cut_characters].count("\n") == what.last_line
    assert f"lines {what.first_line} to {what.last_line}" in what.sentence
    assert f"from {what.n_tokens_before:,} to {what.n_tokens_after:,} tokens" in what.sentence
    assert what.values["kind"] == "truncate-middle"
    assert what.values["cut_lines"] == [what.first_line, what.last_line]


def test_only_the_longest_message_is_cut_where_that_is_enough() -> None:
    messages = [
        Message("system", "Be kind."),
        Message("user", LINES),
        Message("assistant", "Long."),
        Message("user", "And now?"),
    ]
    remaining, what = cut(messages, 3000)
    assert what.n_dropped_turns == 0
    assert [one for one in remaining if one.content != remaining[1].content] == [messages[0], *messages[2:]]


def test_many_short_turns_lose_the_oldest() -> None:
    turns = [message for n in range(40) for message in (Message("user", f"q{n} " * 20), Message("assistant", "a" * 50))]
    remaining, what = cut([Message("system", "Be kind."), *turns, Message("user", "last")], 2000)
    assert what.n_dropped_turns > 10
    assert what.n_cut_characters == 0
    assert (remaining[0].content, remaining[-1].content) == ("Be kind.", "last")
    assert remaining[1:-1] == turns[2 * what.n_dropped_turns :]
    assert "oldest turns were left out" in what.sentence


def test_then_the_middle_of_the_last_question_too() -> None:
    turns = [message for n in range(9) for message in (Message("user", "q" * 900), Message("assistant", "a" * 50))]
    remaining, what = cut([*turns, Message("user", "x" * 800 + " end")], 500)
    assert what.n_dropped_turns == 9
    assert remaining[0].content.endswith("xxx end")
    assert " and " in what.sentence


def test_a_long_system_prompt_cannot_be_cut() -> None:
    messages = [Message("system", "x" * 300), Message("user", "Hello")]
    assert cut_middle(messages, count(messages), 100, count) is None
    assert cut_middle(messages[:1], 310, 100, count) is None


@given(st.text(max_size=400), st.integers(1, 300))
def test_borders_lie_on_their_side(text: str, at: int) -> None:
    at = min(at, len(text))
    assert 0 <= border_before(text, at) <= at <= border_after(text, at) <= len(text)


@given(st.text(max_size=500), st.integers(1, 60))
def test_pieces_are_the_text(text: str, most: int) -> None:
    found = pieces(text, most, len)
    assert "".join(found) == text
    assert all(0 < len(piece) <= most for piece in found)


def test_where_a_prompt_has_room() -> None:
    assert not fits(4096, 4096, 1)
    assert fits(4095, 4096, 1)
    assert not fits(4000, 4096, None)  # hardly a sentence could be said
    assert fits(3800, 4096, None)
    assert room_for_prompt(8192, None) == 8192 - 1024
    assert room_for_prompt(1000, None) == 750
    assert room_for_prompt(8192, 100) == 8092
