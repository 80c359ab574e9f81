"""The line about a prompt that is being read: how far, how long, and gone when there is something else to show."""

from __future__ import annotations

import threading

import pytest

from qwenctl.cli import late_status
from qwenctl.cli.late_status import LateStatus
from qwenctl.cli.prompt_clock import PromptClock
from qwenctl.core import PromptProgress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def progress(n_done: int, n_cached: int = 0, n_total: int = 4096) -> PromptProgress:
    return PromptProgress("one", n_done, n_cached, n_total)


def test_the_line_says_how_much_is_done_and_how_long_the_rest_takes() -> None:
    clock = Clock()
    prompt = PromptClock(clock)
    assert prompt.line == "reading the prompt…"
    clock.now_s += 2
    prompt.take(progress(1024))
    assert prompt.line == "reading the prompt 25% · 6 s left"
    clock.now_s += 1  # nothing new, but time passes
    assert prompt.line == "reading the prompt 38% · 5 s left"
    clock.now_s += 60  # it takes longer than was thought
    assert prompt.line == "reading the prompt 99%"
    prompt.take(progress(4096))
    assert prompt.line == "reading the prompt 100%"


def test_later_chunks_are_expected_to_take_longer_where_attention_grows() -> None:
    clock = Clock()
    prompt = PromptClock(clock)
    for chunk, seconds in enumerate((1.5, 2.5, 3.5, 4.5)):  # the fifth would take 5.5 s, and so on to the 16th
        clock.now_s += seconds
        prompt.take(progress((chunk + 1) * 512, n_total=8192))
    assert prompt.line == "reading the prompt 25% · 2 min 12 s left"


def test_the_time_that_reading_from_the_disk_took_is_not_taken_for_computing() -> None:
    clock = Clock()
    prompt = PromptClock(clock)
    clock.now_s += 50
    prompt.take(progress(3072, n_cached=2048))
    assert prompt.line == "reading the prompt 75%"
    clock.now_s += 1
    prompt.take(progress(3584, n_cached=2048))
    assert prompt.line == "reading the prompt 88% · 1 s left"


def test_the_status_comes_after_a_while_and_goes_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_status, "SHOWN_AFTER_S", 0.01)
    monkeypatch.setattr(late_status, "_REDRAWN_EVERY_S", 0.01)
    shown: list[str] = []
    came = threading.Event()

    def show(text: str) -> None:
        shown.append(text)
        came.set()

    with LateStatus(show, lambda: "reading…") as status:
        assert came.wait(10)
        came.clear()
        assert came.wait(10)
        status.end()
        n_shown = len(shown)
        assert shown[0] == "reading…"
        assert shown[-1] == ""
        assert not came.wait(0.05) or len(shown) == n_shown
    assert len(shown) == n_shown


def test_work_that_is_done_at_once_shows_nothing() -> None:
    shown: list[str] = []
    with LateStatus(shown.append, lambda: "never"):
        pass
    assert shown == []
