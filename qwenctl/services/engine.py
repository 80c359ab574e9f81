"""Text generation on llama.cpp: one model, many sequences, one decode loop.

    submit → waiting → admitted to a slot, with whatever prefix is in the KV cache → a step at a time → Finished

Each `step` admits requests, lets step_plan.py say what is computed, computes it, and samples a token for every
sequence whose tokens are all computed. Requests join between steps and leave when they are done; a chat is one request
at a time.

    engine_options.py   what can be decided        step_plan.py      which tokens are computed next
    native_model.py     llama.cpp's handles        kv_cache.py       slots and cells (kv_slots.py, kv_cells.py)
    live_request.py     one request's state        sampler_chain.py  the choice of a token
    text_stream.py      tokens' bytes to text      think_monitor.py  where a reply stands with its think block
    native_thread.py    long calls that can be interrupted
    prefix_cache/       prompts kept on disk

One thread steps. `submit`, `cancel` and `end_thinking` may come from any thread at any time; so may `close`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, ModelInfo, PromptProgress
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.engine_surface import EngineSurface
from qwenctl.services.kv_cache import KvCache
from qwenctl.services.live_request import LiveRequest
from qwenctl.services.native_model import NativeModel, open_native_model
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.prefix_cache.opening import open_prefixes
from qwenctl.services.request_check import check_request
from qwenctl.services.sampler_chain import SamplerChain
from qwenctl.services.step_plan import Batch, Chunk, Pending, StepLimits, generating_batch, plan_step

__all__ = ["Engine", "EngineOptions"]

_DONE, _NO_ROOM, _ABORTED = 0, 1, 2  # llama_decode
_MOST_FAILURES = 2  # in a row; after that the model is taken to be broken


class Engine(EngineSurface):
    """An opened model. Use `Engine.open`, and close it, or use it as a context manager."""

    def __init__(
        self, model: NativeModel, thread: NativeThread, options: EngineOptions, clock: Callable[[], float]
    ) -> None:
        self.options = options
        self._model = model
        self._clock = clock
        self._cache = KvCache(model)
        self._thread = thread  # on which the model was opened
        self._prefixes = open_prefixes(model, thread, options, clock)
        self._limits = StepLimits(model.n_batch, model.n_ubatch, model.shares_cells)
        self._lock = threading.Lock()  # held while stepping
        self._incoming: deque[LiveRequest] = deque()
        self._waiting: deque[LiveRequest] = deque()
        self._running: list[LiveRequest] = []  # in order of admission
        self._names: set[str] = set()  # of all requests under way
        self._cancelled: set[str] = set()
        self._answer_now: set[str] = set()  # requests whose thinking is to end
        self._computing: frozenset[str] = frozenset()
        self._last_events: list[GenerationEvent] = []  # of requests that `close` ended
        self._n_ended = 0
        self._n_failures = 0
        self._closed = False

    @classmethod
    def open(
        cls, path: Path, options: EngineOptions | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> Self:
        """Load a GGUF file; of a split set, its first.

        A file that is not known to load should go through load_trial.py first: llama.cpp aborts the process on some.

        Args:
            path: the file.
            options: None: one sequence, the usual context.
            clock: seconds, for `Timing`.

        Raises:
            ModelLoadFailed: llama.cpp refuses the file or cannot make a context of that size; with its reason.
        """
        options = options or EngineOptions()
        return cls(*open_native_model(path, options), options, clock)

    @property
    def info(self) -> ModelInfo:
        """What the model's file says."""
        return self._model.info

    @property
    def placement(self) -> str | None:
        """Where the experts of an offloaded model are, in a line; None: nothing is offloaded."""
        return self._model.placement

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be done as it should while the model was opened; a line each."""
        return tuple(self._model.warnings)

    def offload_stats(self) -> dict[str, Any] | None:
        """Return placement and counters of the expert scheduler; None: nothing is offloaded."""
        return self._model.offload_stats()

    @property
    def failure(self) -> GenerationFailed | None:
        """Why nothing can be generated any more; None: it can."""
        if self._n_failures < _MOST_FAILURES:
            return None
        return GenerationFailed("llama.cpp failed several times in a row: this model cannot be used on")

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._incoming or self._waiting or self._running or self._last_events)

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool = False) -> tuple[int, ...]:
        """Return the tokens of `text`; the arguments are `Vocabulary.tokenize`'s."""
        self._check_open()
        return self._model.vocabulary.tokenize(text, parse_special=parse_special, add_special=add_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text that `tokens` show; control tokens show nothing."""
        self._check_open()
        piece = self._model.vocabulary.piece
        return b"".join(piece(token) for token in tokens).decode("utf-8", "replace")

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request: its events come from `step`.

        Raises:
            PromptTooLong: the prompt leaves no room for an answer.
            InvalidRequest: an empty prompt, a token that the model does not have, max_tokens below 1, a bad grammar,
                bias or number of logprobs, or the name of a request under way.
            GenerationFailed: the model is closed, or broken by earlier failures.
        """
        self._check_usable()
        vocabulary, n_ctx = self._model.vocabulary, self._model.n_ctx
        check_request(request, vocabulary.n_tokens, n_ctx)
        if request.request_id in self._names:
            raise InvalidRequest(f"there is a request {request.request_id!r} under way")
        sampler = SamplerChain(vocabulary, request.sampling, request.prompt_tokens, n_ctx, request.logit_bias)
        self._cancelled.discard(request.request_id)  # meant for an earlier request of that name
        self._answer_now.discard(request.request_id)
        self._names.add(request.request_id)
        self._incoming.append(LiveRequest(request, sampler, vocabulary, n_ctx, self._clock))

    def cancel(self, request_id: str) -> None:
        """End a request early: the next `step` returns its `Finished`. Unknown and finished ones are ignored.

        What is being computed for it is broken off. Callable from signal handlers and other threads.
        """
        self._cancelled.add(request_id)
        if request_id in self._computing:
            self._model.abort()

    def end_thinking(self, request_id: str) -> None:
        """Close a request's think block before its next token, or as soon as it opens. Unknown ones are ignored.

        Callable from signal handlers and other threads.
        """
        self._answer_now.add(request_id)

    def step(self) -> list[GenerationEvent]:
        """Compute once for all requests that can run; [] when there is nothing to do.

        A request that fails ends with `FinishReason.ERROR`; the others go on.
        """
        with self._lock:
            events, self._last_events = self._last_events, []
            if self._closed:
                return events
            try:
                self._prefixes.settle()
                events += self._end_cancelled()
                if self._answer_now:
                    self._end_thinking()
                self._admit()
                for batch in self._plan():
                    events += self._compute(batch)
                    if self._cancelled:
                        return events
                    if any(isinstance(event, PromptProgress) for event in events):
                        break  # somebody wants to see it now, not after the whole batch
                if not self._limits.shared_cache:
                    events += self._compute(generating_batch(self._pending()))
            except BaseException:
                # Whatever interrupted this, slots and llama.cpp's memory may differ now. Compute everything again.
                self._prefixes.settle()
                self._cache.forget_all()
                self._last_events = events
                raise
            if not self._running:
                self._prefixes.write()
            return events

    def close(self) -> None:
        """Free the model. Requests under way end as cancelled: `step` still returns their last events."""
        already_closed, self._closed = self._closed, True
        self._model.abort()
        with self._lock:
            if already_closed:
                return
            self._prefixes.settle()
            self._last_events += self._end(self._all_requests(), FinishReason.CANCELLED)
            self._prefixes.write()
            self._prefixes.settle()
            self._thread.close()
            self._model.close()
        self._prefixes.close()

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books on slots and cells agree."""
        self._cache.check_integrity()

    # --- between computations ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise GenerationFailed("the model is closed")

    def _check_usable(self) -> None:
        self._check_open()
        if failure := self.failure:
            raise failure

    def _all_requests(self) -> list[LiveRequest]:
        """Return every request under way, and take over those that were submitted meanwhile."""
        while self._incoming:
            self._waiting.append(self._incoming.popleft())
        return [*self._running, *self._waiting]

    def _end_cancelled(self) -> list[GenerationEvent]:
        requests = self._all_requests()
        cancelled = {self._cancelled.pop() for _ in range(len(self._cancelled))}
        return self._end([one for one in requests if one.request_id in cancelled], FinishReason.CANCELLED)

    def _end_thinking(self) -> None:
        asked = {self._answer_now.pop() for _ in range(len(self._answer_now))}
        for request in self._all_requests():
            if request.request_id in asked:
                request.end_thinking()

    def _end(
        self, requests: Sequence[LiveRequest], reason: FinishReason, error: str | None = None
    ) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        for request in requests:
            events += request.finish(reason, error)
            self._leave(request)
        return events

    def _leave(self, request: LiveRequest) -> None:
        """The request has had its last event."""
        if request.slot:
            self._cache.give_back(request.slot)
            self._prefixes.offer(request.slot, request.n_prompt)
            request.slot = None
            self._running.remove(request)
        else:
            with suppress(ValueError):
                self._waiting.remove(request)
        self._names.discard(request.request_id)
        self._n_ended += 1

    def _drop_everything(self) -> None:
        with self._lock:
            if not self._closed:
                self._end(self._all_requests(), FinishReason.CANCELLED)
                self._last_events, self._cancelled, self._answer_now = [], set(), set()

    def _admit(self) -> None:
        """Give slots to waiting requests, first come first served."""
        while self._waiting and len(self._running) < self.options.n_parallel:
            request = self._waiting[0]
            if self._running and request.waits_for_end == self._n_ended:
                return
            placement = self._cache.place(request.tokens, request.n_may_follow)
            if placement is None:
                return
            self._waiting.popleft()
            slot = self._cache.take(placement, tuple(request.tokens))
            request.admit(slot, self._prefixes.restore(self._cache, slot, request.tokens))
            self._running.append(request)

    def _hold_back(self, request: LiveRequest) -> None:
        """Take a request's cells away; it is computed again when another one has ended."""
        if request.slot:
            self._cache.clear(request.slot)
            self._cache.give_back(request.slot)
        request.slot = None
        request.waits_for_end = self._n_ended
        self._running.remove(request)
        self._waiting.appendleft(request)

    # --- computing ---------------------------------------------------------------------------------------------------

    def _plan(self) -> tuple[Batch, ...]:
        pending = self._pending()
        if not pending:
            return ()
        enough = min(sum(one.n_known - one.n_cached for one in pending), self._limits.n_batch)
        plan = plan_step(pending, self._limits, self._cache.free_cells(enough))
        by_slot = self._by_slot()
        for slot in plan.held_back:
            self._hold_back(by_slot[slot])
        self._cache.make_room(plan.n_tokens)
        return plan.batches

    def _pending(self) -> list[Pending]:
        return [Pending(one.slot.index, len(one.slot.tokens), len(one.tokens)) for one in self._running if one.slot]

    def _by_slot(self) -> dict[int, LiveRequest]:
        return {one.slot.index: one for one in self._running if one.slot}

    def _compute(self, batch: Batch) -> list[GenerationEvent]:
        """Compute a batch of the plan; less of it if an earlier batch of the same step did not go as planned."""
        by_slot = self._by_slot()
        work: list[tuple[Chunk, LiveRequest]] = []
        for chunk in batch:
            request = by_slot.get(chunk.slot)
            if request and request.slot and len(request.slot.tokens) == chunk.first:
                work.append((chunk, request))
        if not work:
            return []
        tokens = [request.tokens[chunk.first : chunk.first + chunk.n_tokens] for chunk, request in work]
        last = self._model.batch.fill([chunk for chunk, _ in work], tokens)
        self._prefixes.computing()
        status = self._decode([request for _, request in work])
        if status == _DONE:
            events = self._sample(work, tokens, last)
            self._prefixes.computed([(one.slot, one.n_prompt, chunk) for chunk, one in work if one.slot])
            return events
        for _, request in work:
            if request.slot:
                self._cache.roll_back(request.slot)
        if status == _ABORTED:
            return []
        if status == _NO_ROOM:
            return self._find_room()
        return self._fail([request for _, request in work], status)

    def _decode(self, requests: Sequence[LiveRequest]) -> int:
        for request in requests:
            request.start()
        self._model.rearm()
        self._computing = frozenset(request.request_id for request in requests)
        try:
            if self._closed or self._cancelled:
                return _ABORTED
            return self._thread.run(self._model.decode)
        finally:
            self._computing = frozenset()

    def _sample(
        self, work: Sequence[tuple[Chunk, LiveRequest]], tokens: Sequence[Sequence[int]], last: Sequence[int]
    ) -> list[GenerationEvent]:
        self._n_failures = 0
        for (_, request), computed in zip(work, tokens, strict=True):
            if request.slot:
                self._cache.extend(request.slot, computed)
        events: list[GenerationEvent] = []
        for (chunk, request), index in zip(work, last, strict=True):
            if request.request.reports_progress and chunk.first < request.n_prompt:
                events.append(request.progress(chunk.first + chunk.n_tokens))
            if not chunk.wants_logits:
                continue
            try:
                said = request.sample(self._model.context, index)
            except GenerationFailed as error:
                said = request.finish(FinishReason.ERROR, error.message)
            if said and isinstance(said[-1], Finished):
                self._leave(request)
            events += said
        return events

    def _find_room(self) -> list[GenerationEvent]:
        """llama.cpp found no cells, by our count there are: forget what is idle, hold the newest back, end the last."""
        if self._cache.drop_idle():
            return []
        if len(self._running) > 1:
            self._hold_back(self._running[-1])
            return []
        return self._end(self._running[:], FinishReason.LENGTH)

    def _fail(self, requests: Sequence[LiveRequest], status: int) -> list[GenerationEvent]:
        """End the requests of a batch that could not be computed. Others are computed again from their tokens."""
        self._n_failures += 1
        self._cache.forget_all()
        events = self._end(requests, FinishReason.ERROR, f"llama_decode failed with status {status}")
        if self._n_failures >= _MOST_FAILURES:
            events += self._end(self._all_requests(), FinishReason.ERROR, "llama.cpp failed several times in a row")
        return events
