"""The thread that copies beside the steps: in order, failures in their tickets, what was not begun given up."""

from __future__ import annotations

import threading

import pytest

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.device_copier import DeviceCopier


def test_one_after_the_other() -> None:
    copier, done = DeviceCopier(), list[int]()
    tickets = [copier.submit(str(number), lambda number=number: done.append(number)) for number in range(20)]
    for ticket in tickets:
        ticket.wait()
    copier.close()
    assert done == list(range(20))


def test_a_failure_is_its_own() -> None:
    copier = DeviceCopier()
    failing = copier.submit("expert 3 of layer 7", lambda: 1 / 0 and None)
    after = copier.submit("expert 4 of layer 7", lambda: None)
    with pytest.raises(ExpertReadFailed, match="expert 3 of layer 7: division by zero"):
        failing.wait()
    after.wait()
    copier.close()


def test_closing_gives_up_what_waits() -> None:
    copier, go_on, begun, done = DeviceCopier(), threading.Event(), threading.Event(), list[int]()

    def slow() -> None:
        begun.set()
        go_on.wait(10)

    first = copier.submit("first", slow)
    second = copier.submit("second", lambda: done.append(2))
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    copier.close()
    assert first.done
    assert first.error is None
    with pytest.raises(ExpertReadFailed, match="second: the read was cancelled"):
        second.wait()
    assert done == []
