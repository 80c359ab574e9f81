"""A progress bar for work in stages whose size is known only once it has begun: each stage gets a bar of its own."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from qwenctl.cli.output import Output
from qwenctl.cli.progress import Progress
from qwenctl.units import format_count


class StageBars:
    """Shows weights done and weights a second. A context manager; leaving it takes the last bar away."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._stage = ""
        self._bar: Progress | None = None
        self._open = ExitStack()
        self._started_s = 0.0
        self._n_before = 0

    def update(self, stage: str, n_weights_done: int, n_weights: int, remark: str = "") -> None:
        """Show how far `stage` is. Its first call says what was done before it began."""
        if self._bar is None or stage != self._stage:
            self._open.close()
            self._stage, self._started_s, self._n_before = stage, time.monotonic(), n_weights_done
            bar = self._output.progress(stage, n_weights, format_amount=format_count)
            self._bar = self._open.enter_context(bar)
        rate = (n_weights_done - self._n_before) / max(0.1, time.monotonic() - self._started_s)
        self._bar.update(n_weights_done, " · ".join(filter(None, (f"{format_count(rate)} weights/s", remark))))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
