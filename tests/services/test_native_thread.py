"""Calls in the native thread: answers, errors, and Ctrl-C at every moment of the wait."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from qwenctl.services import native_thread
from qwenctl.services.native_thread import NativeThread

GUARD_S = 20.0  # far above what any of these takes: a wait that never ends is what they look for


@pytest.fixture
def thread() -> Iterator[NativeThread]:
    thread = NativeThread("test", lambda: None)
    yield thread
    thread.close()


def _within_guard(body: Callable[[], object]) -> object:
    """Return what `body` returns in a thread of its own; fail if it does not end."""
    answers: list[object] = []
    runner = threading.Thread(target=lambda: answers.append(body()), daemon=True)
    runner.start()
    runner.join(GUARD_S)
    assert not runner.is_alive(), "it waits for an answer that was already taken"
    return answers[0]


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except BaseException as error:
        return type(error)


def test_results_and_errors_come_back_from_one_other_thread(thread: NativeThread) -> None:
    names = {thread.run(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"test"}
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    assert thread.run(lambda: None) is None
    assert thread.run(lambda: 7) == 7


def test_something_is_done_while_the_call_runs_and_not_before_it(thread: NativeThread) -> None:
    order: list[str] = []
    done = threading.Event()

    def call() -> bool:
        order.append("begun")
        return done.wait(GUARD_S)  # it could not end if what is to be done beside it were done after it

    def meanwhile() -> None:
        order.append("beside")
        done.set()

    assert thread.run(call, meanwhile) is True
    assert order == ["begun", "beside"]


def test_a_call_has_returned_when_what_was_done_beside_it_fails(thread: NativeThread) -> None:
    returned = threading.Event()

    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        thread.run(returned.set, fail)
    assert returned.is_set()


def _interrupt_after_native_calls(n_calls: int) -> Callable[[FrameType, str, Any], None]:
    """Return a profiler that raises KeyboardInterrupt after the n-th call that native_thread.py makes into C."""
    left = n_calls

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        if event == "c_return" and frame.f_code.co_filename == native_thread.__file__:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    return profile


@pytest.mark.parametrize("n_calls", range(1, 7))
def test_an_interrupt_after_any_step_of_the_wait_ends_it(n_calls: int, thread: NativeThread) -> None:
    def body() -> object:
        sys.setprofile(_interrupt_after_native_calls(n_calls))  # for this thread; an exception in it ends it
        try:
            return _outcome(lambda: thread.run(lambda: 7))
        finally:
            sys.setprofile(None)

    assert _within_guard(body) in (KeyboardInterrupt, 7)  # 7: the wait has fewer steps than that
    assert _within_guard(lambda: thread.run(lambda: 8)) == 8  # the answer to this call, not to an earlier one


def test_the_moment_after_the_answer_was_taken_is_among_those_steps(thread: NativeThread) -> None:
    finished = threading.Event()
    taken: list[bool] = []

    def body() -> object:
        def profile(frame: FrameType, event: str, function: Any) -> None:
            waited = frame.f_code is NativeThread.run.__code__ and getattr(function, "__name__", "") != "put"
            if event == "c_return" and waited:
                taken.append(finished.is_set())
                raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            return _outcome(lambda: thread.run(finished.set))
        finally:
            sys.setprofile(None)

    assert _within_guard(body) is KeyboardInterrupt
    assert taken == [True]


def test_further_interrupts_wait_for_the_call_to_return() -> None:
    steps: list[str] = []
    let_go = threading.Event()

    def interrupt() -> None:
        steps.append("interrupt")
        if steps.count("interrupt") < 3:
            raise KeyboardInterrupt  # a second and a third Ctrl-C
        let_go.set()

    def call() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # the first
        let_go.wait(GUARD_S)
        steps.append("returned")

    thread = NativeThread("test", interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.run(call)
    assert steps[:3] == ["interrupt"] * 3
    assert steps[-1] == "returned"
    assert thread.run(lambda: 9) == 9
    thread.close()


def test_whoever_is_on_the_thread_calls_at_once_and_what_he_posts_is_put_off(thread: NativeThread) -> None:
    done: list[str] = []

    def nested() -> None:
        ticket = thread.post(lambda: done.append("posted"))
        assert not ticket.done
        assert thread.run(lambda: done.append("called") or 7, lambda: done.append("meanwhile")) == 7
        first, second = thread.post(lambda: done.append("first")), thread.post(lambda: done.append("second"))
        thread.settle(first)
        assert second.done
        with pytest.raises(ZeroDivisionError):
            thread.run(lambda: 1 // 0)
        thread.post(lambda: done.append("last"))

    thread.run(nested)
    assert thread.run(lambda: done) == ["posted", "meanwhile", "called", "first", "second", "last"]
