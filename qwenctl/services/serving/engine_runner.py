"""Steps an engine for a server: any thread submits and cancels, events come back by callback.

    submit ──► engine ──► step, step, step … ──► mailbox ──► on_events([...]), once a request and step
               on the thread that computes       on the runner's thread
    idle: both sleep until something is submitted

Two threads, because whoever is told of events wakes up and wants the interpreter, which would hold up the next step's
beginning by a third of a millisecond, a tenth of a small model's step: the thread that steps only drops events into a
mailbox as it begins to compute. And it is the engine's own (native_thread.py), because two hand-overs between threads
a step would cost about as much.

Knows nothing of HTTP, messages and text.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.embedder import Embeddings
from qwenctl.services.engine_surface import TakeEvents
from qwenctl.services.serving.embedding_job import EmbeddingJob
from qwenctl.services.under_way import UnderWay

_AGAIN_S = 0.1
_CLOSING = "the model is being closed: it takes no more requests"

OnEvents = Callable[[Sequence[GenerationEvent]], None]


class SteppedEngine(Protocol):
    """What a runner needs of an engine: of Engine, EngineProcess, or a test's double."""

    @property
    def failure(self) -> GenerationFailed | None:
        """Why nothing can be generated any more; None: it can."""

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""

    def cancel(self, request_id: str) -> None:
        """End a request early."""

    def end_thinking(self, request_id: str) -> None:
        """Close a request's think block now."""

    def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
        """Return a vector of each list of tokens."""

    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        """Compute once for all requests that can run; `meanwhile` gets events when that has begun."""

    def occupy(self, loop: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        """Run `loop`, which steps and which `end` ends; return what waits for that."""

    def rest(self) -> None:
        """Do what was put off until there is nothing to compute."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True, slots=True)
class RunnerCounters:
    """What a runner has done since it was started. Prompts are counted when their requests end."""

    n_steps: int
    busy_s: float  # spent in steps
    n_prompt_tokens: int
    n_cached_tokens: int  # of the prompts', taken from the KV cache
    n_generated_tokens: int
    n_ended: Mapping[FinishReason, int]


class _Listener(UnderWay):
    """A request and who is told of it."""

    def __init__(self, request: GenerationRequest, on_events: OnEvents) -> None:
        super().__init__(request)
        self.on_events = on_events


class EngineRunner:
    """Steps `engine`, from now on; nobody else may. Close it and the engine with it, or stop it.

    Args:
        engine: an opened one without requests.
        n_parallel: sequences that it computes at the same time.
        clock: seconds, for `RunnerCounters`.
    """

    def __init__(self, engine: SteppedEngine, n_parallel: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._n_parallel = n_parallel
        self._clock = clock
        self._changed = threading.Condition()  # guards all below
        self._listeners: dict[str, _Listener] = {}
        self._embeddings: deque[EmbeddingJob] = deque()
        self._failure: GenerationFailed | None = None
        self._closing = False  # no more requests
        self._stopped = False  # no more steps when the requests have ended
        self._ended = False  # no more steps at all
        self._over = False  # nobody steps any more
        self._n_steps = self._n_prompt = self._n_cached = self._n_generated = 0
        self._busy_s = 0.0
        self._news: Sequence[GenerationEvent] = ()  # not sent off yet; of the thread that steps alone
        self._mailbox: SimpleQueue[Sequence[GenerationEvent] | None] = SimpleQueue()  # None: it is over
        self._n_ended: Counter[FinishReason] = Counter()
        self._thread = threading.Thread(target=self._tell_all, name="qwenctl-runner", daemon=True)
        self._thread.start()
        self._await_loop = engine.occupy(self._run, self._end)

    @property
    def failure(self) -> GenerationFailed | None:
        """Why nothing can be generated any more; None: it can."""
        return self._failure or self._engine.failure

    @property
    def n_running(self) -> int:
        """Requests that the engine works on; with shared cells, some of them may have to wait for room."""
        return min(len(self._listeners), self._n_parallel)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for one of those to end."""
        return max(0, len(self._listeners) - self._n_parallel)

    @property
    def counters(self) -> RunnerCounters:
        """What has been done so far."""
        with self._changed:
            tokens = (self._n_prompt, self._n_cached, self._n_generated)
            return RunnerCounters(self._n_steps, self._busy_s, *tokens, dict(self._n_ended))

    def submit(self, request: GenerationRequest, on_events: OnEvents) -> None:
        """Queue a request.

        Args:
            request: its name must be that of no other one under way.
            on_events: gets its events of one step, the last time with a `Finished` at the end. Called on the runner's
                thread, perhaps before this returns: it must return at once. If it raises, the request is cancelled and
                it is not called again.

        Raises:
            PromptTooLong, InvalidRequest: as `Engine.submit`; `on_events` is never called then.
            GenerationFailed: the engine is broken, or the runner is closing.
        """
        name = request.request_id
        with self._changed:
            self._check_open()
            if name in self._listeners:
                raise InvalidRequest(f"there is a request {name!r} under way")
            self._listeners[name] = _Listener(request, on_events)
        try:
            self._engine.submit(request)
        except BaseException:
            with self._changed:
                is_news = self._listeners.pop(name, None) is not None
                self._changed.notify_all()
            if is_news:
                raise
            return  # the engine died, and `on_events` has been told so
        with self._changed:
            self._changed.notify_all()
            if self._over and self._listeners.pop(name, None) is not None:  # it ended while this was being submitted
                raise self.failure or GenerationFailed(_CLOSING)

    def cancel(self, request_id: str) -> None:
        """End a request early: `on_events` gets its `Finished` soon. Unknown and finished ones are ignored."""
        if request_id in self._listeners:
            self._engine.cancel(request_id)

    def embed(self, token_lists: Sequence[Sequence[int]]) -> Future[Embeddings]:
        """Queue the computation of vectors, which is done between steps, a little at a time.

        The future's result, f32 (n_lists, n_embd), and errors are those of `Engine.embed`.

        Raises:
            GenerationFailed: the engine is broken, or the runner is closing.
        """
        job = EmbeddingJob(token_lists)
        with self._changed:
            self._check_open()
            self._embeddings.append(job)
            self._changed.notify_all()
        return job.future

    def end_thinking(self, request_id: str) -> None:
        """Close a request's think block now: the answer follows. Unknown and finished ones are ignored."""
        if request_id in self._listeners:
            self._engine.end_thinking(request_id)

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let those under way finish, then end the rest as cancelled and close the engine.

        Not to be called from `on_events`. An interruption (KeyboardInterrupt) ends the waiting, not the closing.

        Args:
            drain_s: how long to wait for requests under way.
        """
        try:
            with self._changed:
                self._closing = True
                self._changed.wait_for(lambda: not self._listeners and not self._embeddings, timeout=drain_s)
        finally:
            self._engine.close()
            self._end()
            self._join()

    def stop(self) -> None:
        """Take no more requests, end those under way as cancelled and let go of the engine, which stays open.

        Not to be called from `on_events`.
        """
        with self._changed:
            self._closing = self._stopped = True
            self._changed.notify_all()
            while names := list(self._listeners):
                for name in names:
                    self._engine.cancel(name)
                self._changed.wait(_AGAIN_S)  # one that was just being submitted may not have been there to cancel
        self._join()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _join(self) -> None:
        self._await_loop()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise GenerationFailed(_CLOSING)
        if failure := self.failure:
            raise failure

    # --- on the thread that steps ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._awaits_work():
                started_s = self._clock()
                self._embed_some()
                news = self._engine.step(self._post)
                self._n_steps += 1  # nobody else writes these
                self._busy_s += self._clock() - started_s
                self._post()  # where nothing was computed
                self._news = news
                if not self._engine.has_work:
                    self._post()
                    self._engine.rest()
        except BaseException as error:  # whatever it is, those who wait must hear of it
            self._report(error)
            self._failure = GenerationFailed(f"the engine stopped: {type(error).__name__}: {error}")
        self._post()
        self._mailbox.put(None)

    def _awaits_work(self) -> bool:
        """Sleep until there is something to compute. False: it is over."""
        if self._engine.has_work and not self._ended:
            return True
        with self._changed:
            self._changed.wait_for(lambda: self._engine.has_work or self._embeddings or self._stopped or self._ended)
            return not self._ended and (self._engine.has_work or (bool(self._embeddings) and not self._stopped))

    def _embed_some(self) -> None:
        job = self._embeddings[0] if self._embeddings else None
        if job is None:
            return
        self._post()
        if not job.advance(self._engine.embed):
            with self._changed:
                self._embeddings.popleft()
                self._changed.notify_all()

    def _post(self, early: Sequence[GenerationEvent] = ()) -> None:
        """Send off what the last step brought, and this one so far."""
        if news := [*self._news, *early]:
            self._mailbox.put(news)
        self._news = ()

    # --- on the runner's thread --------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        while (news := self._mailbox.get()) is not None:
            self._hand_over(news)
        self._end_all()

    def _hand_over(self, events: Sequence[GenerationEvent]) -> None:
        by_request: dict[str, list[GenerationEvent]] = {}
        for event in events:
            by_request.setdefault(event.request_id, []).append(event)
        for request_id, news in by_request.items():
            with self._changed:
                listener = self._take(request_id, news[-1])
            if listener:
                self._tell(listener, news)

    def _take(self, request_id: str, last: GenerationEvent) -> _Listener | None:
        """Return who is to hear of a request's events, and count them. None: nobody."""
        listener = self._listeners.get(request_id)
        if listener is None:
            return None
        if isinstance(last, Finished):
            del self._listeners[request_id]
            self._changed.notify_all()
            self._n_ended[last.reason] += 1
            self._n_prompt += last.usage.n_prompt_tokens
            self._n_cached += last.usage.n_cached_tokens
        n_tokens = listener.n_tokens
        if isinstance(last, Finished):
            n_tokens = last.usage.n_generated_tokens
        elif isinstance(last, TextDelta):
            n_tokens = last.n_tokens
        self._n_generated += n_tokens - listener.n_tokens
        listener.n_tokens = n_tokens
        return listener

    def _tell(self, listener: _Listener, events: Sequence[GenerationEvent]) -> None:
        try:
            listener.on_events(events)
        except Exception as error:
            self._report(error)
            listener.on_events = _hears_nothing
            self.cancel(listener.request.request_id)

    def _end_all(self) -> None:
        """End what the engine did not end, with the error that stopped it if there was one."""
        failure = self.failure
        reason = FinishReason.ERROR if failure else FinishReason.CANCELLED
        with self._changed:
            self._over = True
            left = list(self._listeners.values())
            for job in self._embeddings:
                job.fail(failure or GenerationFailed(_CLOSING))
            self._embeddings.clear()
        self._hand_over([listener.finish(reason, failure.message if failure else None) for listener in left])

    def _report(self, error: BaseException) -> None:
        """A bug: shown as one that ended a thread would be."""
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread)))


def _hears_nothing(_: Sequence[GenerationEvent]) -> None:
    """Listen in place of a callback that raised."""
