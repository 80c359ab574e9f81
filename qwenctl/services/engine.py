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
    request_line.py     who waits and who runs     prefix_cache/     prompts kept on disk
    embedder.py         vectors of texts           step_times.py     how long steps take

One thread steps. `submit`, `cancel` and `end_thinking` may come from any thread at any time; so may `close`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, ModelInfo, PromptProgress
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.embedder import Embeddings
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.engine_surface import EngineSurface, TakeEvents
from qwenctl.services.kv_cache import KvCache
from qwenctl.services.live_request import LiveRequest
from qwenctl.services.native_model import NativeModel, open_native_model
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.prefix_cache.opening import open_prefixes
from qwenctl.services.request_check import check_lists, check_request
from qwenctl.services.request_line import RequestLine
from qwenctl.services.sampler_chain import SamplerChain
from qwenctl.services.step_plan import Batch, Chunk, StepLimits, generating_batch, plan_step
from qwenctl.services.step_times import open_step_times

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
        self._times = open_step_times(model, options, clock)
        self._limits = StepLimits(model.n_batch, model.n_ubatch, model.shares_cells, model.gains_by_cuts)
        self._lock = threading.Lock()  # held while stepping
        self._line = RequestLine(self._cache, self._prefixes, options.n_parallel)
        self._cancelled: set[str] = set()
        self._answer_now: set[str] = set()  # requests whose thinking is to end
        self._computing: frozenset[str] = frozenset()
        self._last_events: list[GenerationEvent] = []  # of requests that `close` ended
        self._n_failures = 0
        self._meanwhile: Callable[[], None] | None = None  # of the step under way
        self._closed = False
        self._end_loop: Callable[[], None] = _nothing  # of who occupies the thread
        self._await_loop: Callable[[], None] = _nothing

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
        return bool(self._line or self._last_events)

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
        if request.request_id in self._line.names:
            raise InvalidRequest(f"there is a request {request.request_id!r} under way")
        sampler = SamplerChain(vocabulary, request.sampling, request.prompt_tokens, n_ctx, request.logit_bias)
        self._cancelled.discard(request.request_id)  # meant for an earlier request of that name
        self._answer_now.discard(request.request_id)
        self._line.add(LiveRequest(request, sampler, vocabulary, n_ctx, self._clock))

    def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
        """Return a normalised vector of each list of tokens, f32 (n_lists, n_embd), pooled as the model's file says.

        The end token is added where the file asks for it (Qwen3-Embedding's does). Computed between two steps.

        Raises:
            PromptTooLong, InvalidRequest: a list is empty or too long, or this model gives no embeddings.
            ModelLoadFailed: llama.cpp cannot make the context for them; it is made with the first ones.
            GenerationFailed: llama.cpp failed, or the model is closed.
        """
        self._check_usable()
        lists = [self._model.vocabulary.ended(tokens) for tokens in token_lists]
        check_lists(lists, self._model.vocabulary.n_tokens, self._model.n_ctx)
        with self._lock:
            self._model.rearm()  # first: after the look, it could undo the abort of a `close` that came in between
            self._check_open()
            return self._thread.run(partial(self._model.embed, lists, self.options))

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

    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        """Compute once for all requests that can run; [] when there is nothing to do.

        A request that fails ends with `FinishReason.ERROR`; the others go on.

        Args:
            meanwhile: called once each batch of the step is being computed, with the events since the last call: a
                prompt's first token need not wait for the generating ones' next. It must not close the engine.
        """
        with self._lock:
            events, self._last_events = self._last_events, []
            self._meanwhile = partial(_hand_over, events, meanwhile) if meanwhile else None
            if self._closed:
                return events
            self._times.begin()
            try:
                self._prefixes.settle()
                events += self._line.end(self._line.named(self._cancelled), FinishReason.CANCELLED)
                for request in self._line.named(self._answer_now) if self._answer_now else ():
                    request.end_thinking()
                self._line.admit()
                for batch in self._plan():
                    events += self._compute(batch)
                    if self._cancelled:
                        return events
                    if any(isinstance(event, PromptProgress) for event in events):
                        break  # somebody wants to see it now, not after the whole batch
                if not self._limits.shared_cache:
                    events += self._compute(generating_batch(self._line.pending()))
            except BaseException:
                # Whatever interrupted this, slots and llama.cpp's memory may differ now. Compute everything again.
                try:
                    self._prefixes.settle()
                finally:  # interrupted again, perhaps
                    self._cache.forget_all()
                    self._last_events = events
                raise
            if not self._line.running:
                self._prefixes.write()
            return events

    def occupy(self, loop: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        """Run `loop` on the thread that computes: no step is handed from one thread to another and back.

        Args:
            loop: steps until it has enough; nobody else may step or embed meanwhile.
            end: makes it return soon; called by `close`.

        Returns:
            What waits for the end of `loop`.
        """
        self._end_loop, ticket = end, self._thread.post(loop)
        self._await_loop = partial(self._thread.settle, ticket)
        return self._await_loop

    def rest(self) -> None:
        """Write the prefixes that the last step left. By the loop of `occupy`, before it waits."""
        self._thread.catch_up()

    def close(self) -> None:
        """Free the model. Requests under way end as cancelled: `step` still returns their last events."""
        already_closed, self._closed = self._closed, True
        self._model.abort()
        self._end_loop()
        self._await_loop()
        with self._lock:
            if already_closed:
                return
            self._prefixes.settle()
            self._last_events += self._line.end(self._line.all(), FinishReason.CANCELLED)
            self._prefixes.write()
            self._prefixes.settle()
            self._thread.close()
            self._model.close()
        self._prefixes.close()
        self._times.keep()

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

    def _drop_everything(self) -> None:
        with self._lock:
            if not self._closed:
                self._line.end(self._line.all(), FinishReason.CANCELLED)
                self._last_events, self._cancelled, self._answer_now = [], set(), set()

    # --- computing ---------------------------------------------------------------------------------------------------

    def _plan(self) -> tuple[Batch, ...]:
        pending = self._line.pending()
        if not pending:
            return ()
        enough = min(sum(one.n_known - one.n_cached for one in pending), self._limits.n_batch)
        plan = plan_step(pending, self._limits, self._cache.free_cells(enough))
        by_slot = self._line.by_slot()
        for slot in plan.held_back:
            self._line.hold_back(by_slot[slot])
        self._cache.make_room(plan.n_tokens)
        return plan.batches

    def _compute(self, batch: Batch) -> list[GenerationEvent]:
        """Compute a batch of the plan; less of it if an earlier batch of the same step did not go as planned."""
        by_slot = self._line.by_slot()
        work: list[tuple[Chunk, LiveRequest]] = []
        for chunk in batch:
            request = by_slot.get(chunk.slot)
            if request and request.slot and len(request.slot.tokens) == chunk.first:
                work.append((chunk, request))
        if not work:
            return []
        tokens = [request.tokens[chunk.first : chunk.first + chunk.n_tokens] for chunk, request in work]
        batch = tuple(chunk for chunk, _ in work)
        fillers = self._cache.fillers(batch)
        last = self._model.batch.fill(batch, tokens, fillers)
        self._prefixes.computing()
        status = self._decode([request for _, request in work])
        self._cache.forget_fillers(fillers)
        if status == _DONE:
            events = self._sample(work, tokens, last)
            self._times.computed(len(work), last[-1] + 1, work[-1][0].slot - work[0][0].slot + 1)
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
            return self._thread.run(self._model.decode, self._meanwhile)
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
        wanted = [index for (chunk, _), index in zip(work, last, strict=True) if chunk.wants_logits]
        logits = iter(self._model.logits(wanted))
        for chunk, request in work:
            if request.request.reports_progress and chunk.first < request.n_prompt:
                events.append(request.progress(chunk.first + chunk.n_tokens))
            if not chunk.wants_logits:
                continue
            try:
                said = request.sample(next(logits))
            except GenerationFailed as error:
                said = request.finish(FinishReason.ERROR, error.message)
            if said and isinstance(said[-1], Finished):
                self._line.leave(request)
            events += said
        return events

    def _find_room(self) -> list[GenerationEvent]:
        """llama.cpp found no cells, by our count there are: forget what is idle, hold the newest back, end the last."""
        if self._cache.drop_idle():
            return []
        if len(self._line.running) > 1:
            self._line.hold_back(self._line.running[-1])
            return []
        return self._line.end(self._line.running[:], FinishReason.LENGTH)

    def _fail(self, requests: Sequence[LiveRequest], status: int) -> list[GenerationEvent]:
        """End the requests of a batch that could not be computed. Others are computed again from their tokens."""
        self._n_failures += 1
        self._cache.forget_all()
        events = self._line.end(requests, FinishReason.ERROR, f"llama_decode failed with status {status}")
        if self._n_failures >= _MOST_FAILURES:
            events += self._line.end(self._line.all(), FinishReason.ERROR, "llama.cpp failed several times in a row")
        return events


def _hand_over(events: list[GenerationEvent], take: TakeEvents) -> None:
    early = events[:]
    events.clear()
    take(early)


def _nothing() -> None:
    """Stand in for a loop that there is not."""
