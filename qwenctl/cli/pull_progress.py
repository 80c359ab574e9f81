"""Shows a pull while it runs: bytes, rate and time left of all of it, and on a terminal a line for each file under way.

Ctrl-C is looked for at each update, so that nothing is torn in the middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from quant.stream_run import StreamProgress
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.output import Output
from qwenctl.cli.progress import Part, Progress
from qwenctl.cli.stage_bars import StageBars
from qwenctl.services.hub.download_progress import DownloadProgress, RateMeter
from qwenctl.services.hub.pull import PullWatch
from qwenctl.units import format_bytes

_STAGES = {"search": "channel factors", "check": "reading back"}


@contextmanager
def pull_bars(output: Output, n_cached_bytes: int) -> Iterator[PullWatch]:
    """Yield what is to be told the progress of a download.

    Args:
        output: where.
        n_cached_bytes: of files in huggingface_hub's cache, to be checked first.
    """
    with _Bars(output) as bars, _told_how_to_resume(output) as interrupt:
        n_checked = 0

        def checked(n_bytes: int) -> None:
            nonlocal n_checked
            interrupt.raise_if_requested()
            n_checked += n_bytes
            bars.of("checking the cache", n_cached_bytes).update(n_checked)

        def fetched(progress: DownloadProgress) -> None:
            interrupt.raise_if_requested()
            bar = bars.of("fetching", progress.n_bytes)
            bar.update(progress.n_done_bytes, _remark(progress))
            if len(progress.files) > 1:
                bar.show_parts(_under_way(progress))

        yield PullWatch(fetched, checked, output.warning)


@contextmanager
def streamed_bars(output: Output, converting: str) -> Iterator[Callable[[StreamProgress], None]]:
    """Yield what is to be told the progress of a conversion of what is being fetched.

    Args:
        output: where.
        converting: what the output is called.
    """
    meter = RateMeter()
    with _Bars(output) as bars, StageBars(output) as stages, _told_how_to_resume(output) as interrupt:

        def show(progress: StreamProgress) -> None:
            interrupt.raise_if_requested()
            conversion = progress.conversion
            if conversion.stage != "convert":
                bars.end()
                stages.update(_STAGES[conversion.stage], conversion.n_weights_done, conversion.n_weights)
                return
            rate = format_bytes(meter.update(time.monotonic(), progress.n_bytes_fetched))
            remark = f"{rate}/s · {progress.n_files_read} of {progress.n_files} files"
            bars.of(f"fetching, {converting}", progress.n_bytes).update(progress.n_bytes_read, remark)

        yield show


def _remark(progress: DownloadProgress) -> str:
    n_complete = sum(file.is_complete for file in progress.files)
    files = f" · {n_complete} of {len(progress.files)} files" if len(progress.files) > 1 else ""
    return f"{format_bytes(progress.bytes_per_s)}/s{files}"


def _under_way(progress: DownloadProgress) -> list[Part]:
    return [
        Part(file.path, file.n_done_bytes, file.n_bytes)
        for file in progress.files
        if file.n_done_bytes and not file.is_complete
    ]


@contextmanager
def _told_how_to_resume(output: Output) -> Iterator[InterruptWatch]:
    try:
        with InterruptWatch() as watch:
            yield watch
    except KeyboardInterrupt:
        output.note("stopped; the same command resumes")
        raise


class _Bars:
    """One bar at a time, made when it is first wanted."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._open = ExitStack()
        self._label = ""
        self._bar: Progress | None = None

    def of(self, label: str, total: int) -> Progress:
        """Return the bar of that label."""
        if self._bar is None or label != self._label:
            self.end()
            self._label = label
            self._bar = self._open.enter_context(self._output.progress(label, total, format_amount=format_bytes))
        return self._bar

    def end(self) -> None:
        """Take the bar away."""
        self._open.close()
        self._bar = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
