"""What steps take, by number of sequences, noted while an engine generates for many: a float a step.

    begin → computed(sequences, tokens, slots), once a batch → …        keep, at the end

Noted are steps that do nothing but generate: a token of each sequence, with all that Python does for it. Left out are
the first ones after loading, and those with gaps between the slots: llama.cpp computes what lies between two gaps by
itself (split_equal in llama-batch.cpp), and reads the weights for each part.

Kept is the lower decile of the last ones of each number: what is computed is always the same, other programs only ever
add time, and where threads wait for each other in a loop, one that wants a processor can add a hundredfold. Of
offloaded experts it is the median: some steps find all of theirs in memory.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from functools import partial

from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.native_model import NativeModel
from qwenctl.services.parallel_rule import StepTime
from qwenctl.services.step_record import StepFile, StepRecord

N_WARM_UP = 16
LEAST_STEPS = 8  # of a number of sequences: fewer say little
MOST_STEPS = 256
_USUAL_SHARE, _OFFLOAD_SHARE = 0.1, 0.5  # of steps that were faster than what is kept


class NoStepTimes:
    """Notes nothing: for engines whose times nobody wants."""

    def begin(self) -> None:
        """A step begins."""

    def computed(self, n_sequences: int, n_tokens: int, n_slots: int) -> None:
        """A batch of the step is computed, and tokens are sampled; `n_slots` are from the first to the last of it."""

    def keep(self) -> None:
        """There are no more steps."""


class StepTimes(NoStepTimes):
    """Notes the times of an engine's steps.

    Args:
        clock: seconds.
        keep: takes the times by number of sequences, if there are any, at the end.
        share: of the steps that are to be faster than what is kept.
    """

    def __init__(
        self, clock: Callable[[], float], keep: Callable[[Mapping[int, StepTime]], None], share: float = _USUAL_SHARE
    ) -> None:
        self._clock = clock
        self._share = share
        self._keep = keep
        self._began_s: float | None = None  # None: this step does more than generate
        self._n_warm_up = N_WARM_UP
        self._seconds: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=MOST_STEPS))

    def begin(self) -> None:
        """Start the clock."""
        self._began_s = self._clock()

    def computed(self, n_sequences: int, n_tokens: int, n_slots: int) -> None:
        """Note a step of one batch with a token of each sequence."""
        began_s, self._began_s = self._began_s, None
        if began_s is None or not n_tokens == n_sequences == n_slots:
            return
        if self._n_warm_up:
            self._n_warm_up -= 1
            return
        self._seconds[n_sequences].append(self._clock() - began_s)

    def keep(self) -> None:
        """Hand over what steps of each number took."""
        enough = {n: times for n, times in self._seconds.items() if len(times) >= LEAST_STEPS}
        self._seconds.clear()
        if enough:
            self._keep({n: StepTime(len(enough[n]), self._taken_s(enough[n])) for n in sorted(enough)})

    def _taken_s(self, times: Collection[float]) -> float:
        return sorted(times)[int(self._share * len(times))]


def open_step_times(model: NativeModel, options: EngineOptions, clock: Callable[[], float]) -> NoStepTimes:
    """Return what notes the steps of an opened model, where `options` say that its times are kept."""
    file = StepFile.of(model.path, options, model.device_memory)
    if file is None:
        return NoStepTimes()
    purpose = options.step_times.chosen_for if options.step_times else None

    def added(run: Mapping[int, StepTime], record: StepRecord) -> StepRecord:
        record = record.with_run(run)
        return record.with_choice(purpose, options.n_parallel) if purpose else record

    share = _USUAL_SHARE if model.offload_stats() is None else _OFFLOAD_SHARE
    return StepTimes(clock, lambda run: file.update(partial(added, run)), share)
