"""Progress of long work: a live bar on a terminal, a line every few seconds in a log, nothing with `-q`.

Knows nothing of what is counted; `format_amount` prints it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

from qwenctl.units import format_seconds

FormatAmount = Callable[[float], str]
LINE_EVERY_S = 5.0
_MOST_PARTS = 8  # shown at once


class Part(NamedTuple):
    """A part of the work, such as a file."""

    name: str
    done: float
    total: float


class Progress(ABC):
    """Amounts done of an amount known beforehand. A context manager; leaving it takes the bar away."""

    @abstractmethod
    def update(self, done: float, remark: str = "", *, total: float | None = None) -> None:
        """Say how much is done in all, and in a few words what is being done or how fast.

        Args:
            total: the amount at the end, where it is known better than at the beginning.
        """

    @abstractmethod
    def show_parts(self, parts: Sequence[Part]) -> None:
        """Say how far the parts are that are being worked on. Shown where there is room for more than one line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class NoProgress(Progress):
    """Shows nothing."""

    def update(self, done: float, remark: str = "", *, total: float | None = None) -> None:
        """Drop it."""

    def show_parts(self, parts: Sequence[Part]) -> None:
        """Drop it."""


class LineProgress(Progress):
    """Writes a line every few seconds, none for work that ends sooner. For logs and pipes."""

    def __init__(
        self,
        write: Callable[[str], None],
        label: str,
        total: float,
        format_amount: FormatAmount,
        clock: Callable[[], float] = time.monotonic,
        *,
        tells_time: bool = True,
    ) -> None:
        self._tells_time = tells_time
        self._write, self._label, self._total, self._format = write, label, total, format_amount
        self._clock = clock
        self._written_s = clock()
        self._first: tuple[float, float] | None = None  # (seconds, amount) of the first update: what was done before

    def update(self, done: float, remark: str = "", *, total: float | None = None) -> None:
        """Write a line if the last one is old enough."""
        now_s = self._clock()
        self._total = self._total if total is None else total
        self._first = self._first or (now_s, done)
        if now_s - self._written_s < LINE_EVERY_S:
            return
        self._written_s = now_s
        share = done / self._total if self._total else 1.0
        parts = [f"{share:4.0%}", f"{self._format(done)} of {self._format(self._total)}"]
        first_s, first_done = self._first
        if self._tells_time and first_done < done < self._total:
            seconds_left = (now_s - first_s) * (self._total - done) / (done - first_done)
            parts.append(f"{format_seconds(seconds_left)} left")
        if remark:
            parts.append(remark)
        self._write(f"{self._label} {' · '.join(parts)}\n")

    def show_parts(self, parts: Sequence[Part]) -> None:
        """Drop it: a line every few seconds is for the whole."""


class RichProgress(Progress):
    """A live bar on a terminal: share, amounts, time left, remark."""

    def __init__(
        self, stream: TextIO, label: str, total: float, format_amount: FormatAmount, *, tells_time: bool = True
    ) -> None:
        # Imported here: rich costs 40 ms that a run without a bar need not pay.
        console, progress, table = (import_module(f"rich.{name}") for name in ("console", "progress", "table"))
        self._format, self._total = format_amount, total
        # One line, whatever the width: a bar that wraps now and then takes lines above it along when it goes.
        self._bar: Any = progress.Progress(
            progress.TextColumn("{task.description}", table_column=table.Column(no_wrap=True)),
            progress.BarColumn(bar_width=20),
            progress.TaskProgressColumn(table_column=table.Column(no_wrap=True)),
            progress.TextColumn("{task.fields[amount]}", table_column=table.Column(no_wrap=True)),
            *(
                [progress.TimeRemainingColumn(compact=True, table_column=table.Column(no_wrap=True))]
                if tells_time
                else []
            ),
            progress.TextColumn("[dim]{task.fields[remark]}", table_column=table.Column(no_wrap=True)),
            console=console.Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total, amount="", remark="")
        self._parts: dict[str, Any] = {}  # name → task

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: float, remark: str = "", *, total: float | None = None) -> None:
        """Redraw at rich's own rate, ten times a second at most."""
        self._total = self._total if total is None else total
        amount = f"{self._format(done)} of {self._format(self._total)}"
        self._bar.update(
            self._task, completed=done, total=self._total, amount=amount, remark=remark.replace("[", r"\[")
        )

    def show_parts(self, parts: Sequence[Part]) -> None:
        """Give each a line of its own below the bar, and take it away when it is no longer named."""
        shown = {part.name: part for part in parts[:_MOST_PARTS]}
        for name in self._parts.keys() - shown.keys():
            self._bar.remove_task(self._parts.pop(name))
        for name, part in shown.items():
            if name not in self._parts:
                self._parts[name] = self._bar.add_task(f"  {name}".replace("[", r"\["), remark="", amount="")
            amount = f"{self._format(part.done)} of {self._format(part.total)}"
            self._bar.update(self._parts[name], completed=part.done, total=part.total, amount=amount)
