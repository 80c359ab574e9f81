"""What steps take, by number of sequences, noted while an engine generates for many: a float a step.

    begin → computed(sequences, tokens), once a batch → …        keep, at the end

Noted are steps that do nothing but generate: a token of each sequence, with all that Python does for it. The first ones
after loading are left out. Kept is the lower quartile of the last ones of each number: other programs only ever add
time, and where threads wait for each other in a loop, one that wants a processor can add a hundredfold.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from functools import partial
from statistics import quantiles

from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.native_model import NativeModel
from qwenctl.services.parallel_rule import StepTime
from qwenctl.services.step_record import StepFile, StepRecord

N_WARM_UP = 16
LEAST_STEPS = 8  # of a number of sequences: fewer say little
MOST_STEPS = 256


class NoStepTimes:
    """Notes nothing: for engines whose times nobody wants."""

    def begin(self) -> None:
        """A step begins."""

    def computed(self, n_sequences: int, n_tokens: int) -> None:
        """A batch of the step is computed, and tokens are sampled."""

    def keep(self) -> None:
        """There are no more steps."""


class StepTimes(NoStepTimes):
    """Notes the times of an engine's steps.

    Args:
        clock: seconds.
        keep: takes the times by number of sequences, if there are any, at the end.
    """

    def __init__(self, clock: Callable[[], float], keep: Callable[[Mapping[int, StepTime]], None]) -> None:
        self._clock = clock
        self._keep = keep
        self._began_s: float | None = None  # None: this step does more than generate
        self._n_warm_up = N_WARM_UP
        self._seconds: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=MOST_STEPS))

    def begin(self) -> None:
        """Start the clock."""
        self._began_s = self._clock()

    def computed(self, n_sequences: int, n_tokens: int) -> None:
        """Note a step of one batch with a token of each sequence."""
        began_s, self._began_s = self._began_s, None
        if began_s is None or n_tokens != n_sequences:
            return
        if self._n_warm_up:
            self._n_warm_up -= 1
            return
        self._seconds[n_sequences].append(self._clock() - began_s)

    def keep(self) -> None:
        """Hand over the quartiles."""
        enough = {n: times for n, times in self._seconds.items() if len(times) >= LEAST_STEPS}
        self._seconds.clear()
        if enough:
            self._keep({n: StepTime(len(times), quantiles(times)[0]) for n, times in sorted(enough.items())})


def open_step_times(model: NativeModel, options: EngineOptions, clock: Callable[[], float]) -> NoStepTimes:
    """Return what notes the steps of an opened model, where `options` say that its times are kept."""
    file = StepFile.of(model.path, options, model.device_memory)
    if file is None:
        return NoStepTimes()
    purpose = options.step_times.chosen_for if options.step_times else None

    def added(run: Mapping[int, StepTime], record: StepRecord) -> StepRecord:
        record = record.with_run(run)
        return record.with_choice(purpose, options.n_parallel) if purpose else record

    return StepTimes(clock, lambda run: file.update(partial(added, run)))
