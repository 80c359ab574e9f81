"""The model that answers: one at a time, loaded when it is needed, unloaded when nobody needs it.

    empty ──► loading ──► ready ──► (idle for long, another one is asked for, or its engine died) ──► empty

Opening and closing happen on a thread of their own; who asks meanwhile waits, but at the server's start is told to come
back. Used on the event loop only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from quant.errors import QuantError
from qwenctl.core import FinishReason
from qwenctl.errors import ModelNotFound, QwenctlError
from qwenctl.services.api.answer_head import fingerprint_of
from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.generation import ChatModel
from qwenctl.services.server.asgi_answers import Refused, shutting_down
from qwenctl.services.server.server_metrics import ServerMetrics
from qwenctl.services.server.server_options import ServerOptions
from qwenctl.services.serving.engine_runner import EngineRunner, RunnerCounters

_RETRY_LOADING_S = 3
_RETRY_FAILED_S = 10


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model in memory, and what steps it."""

    chat: ChatModel
    runner: EngineRunner
    n_parallel: int

    def close(self) -> None:
        """Free it."""
        self.runner.close()
        self.chat.close()


class LoadedModel:
    """A model in memory under the name that it is asked by."""

    def __init__(self, name: str, opened: OpenedModel) -> None:
        self.name = name
        self.opened = opened
        self.chat, self.runner = opened.chat, opened.runner
        self.info = opened.chat.engine.info
        self.fingerprint = fingerprint_of(self.info)
        self.n_users = 0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where models come from."""

    name: str  # of the one that is served
    open: Callable[[str], OpenedModel]  # may take minutes; raises QwenctlError and the like
    others: Callable[[], Sequence[str]]  # names of models that could be served instead; quick


class ModelHost:
    """Lends the model to requests."""

    def __init__(self, source: ModelSource, options: ServerOptions, metrics: ServerMetrics) -> None:
        self.source = source
        self.current: LoadedModel | None = None
        self._options = options
        self._metrics = metrics
        self._lock = asyncio.Lock()  # held while the current model changes
        self._freed = asyncio.Condition()
        self._threads = ThreadPoolExecutor(1, "qwenctl-load")
        self._is_starting = not options.lazy  # from here on: connections are taken before `start` is called
        self._is_closing = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._closings: set[asyncio.Task[None]] = set()
        self._earlier: list[RunnerCounters] = []  # of models that are closed

    async def start(self) -> None:
        """Load the served model; requests are told to come back meanwhile.

        Raises:
            QwenctlError: it could not be loaded.
        """
        try:
            async with self._lock:
                await self._open(self.source.name)
        finally:
            self._is_starting = False

    def resolve(self, name: str | None) -> str:
        """Return the model that `name` in a request means.

        Raises:
            ModelNotFound: none that may be asked for.
        """
        served, aliases = self.source.name, self._options.aliases
        if not name or name == served or name in aliases or "*" in aliases:
            return served
        if self._options.allow_switch and name in self.source.others():
            return name
        hint = "" if self._options.allow_switch else "; serve --alias gives it more names, --allow-switch other models"
        raise ModelNotFound(f"no model {name[:200]!r} is served here, but {served!r}{hint}")

    @asynccontextmanager
    async def lend(self, name: str | None) -> AsyncIterator[LoadedModel]:
        """Lend the model that `name` means, loaded.

        Raises:
            ModelNotFound: as `resolve`.
            Refused: 503, it is being loaded or could not be, or the server ends.
        """
        wanted = self.resolve(name)
        if self._is_starting:
            error = ApiError(503, f"the model {wanted} is being loaded", None, "loading", _RETRY_LOADING_S)
            raise Refused(error)
        model = await self._ready(wanted)
        try:
            yield model
        finally:
            model.n_users -= 1
            if not model.n_users:
                await self._became_free()

    @property
    def state(self) -> str:
        """Whether the model is there: loading, ready, or empty, and then it is loaded with the next request."""
        if self._is_starting or (self.current is None and self._lock.locked()):
            return "loading"
        return "empty" if self.current is None else "ready"

    @property
    def counters(self) -> RunnerCounters:
        """What all models did so far."""
        found = [*self._earlier, *([self.current.runner.counters] if self.current else [])]
        ended: Counter[FinishReason] = Counter()
        for one in found:
            ended.update(one.n_ended)
        return RunnerCounters(
            sum(one.n_steps for one in found),
            sum(one.busy_s for one in found),
            sum(one.n_prompt_tokens for one in found),
            sum(one.n_cached_tokens for one in found),
            sum(one.n_generated_tokens for one in found),
            ended,
        )

    @property
    def load(self) -> tuple[int, int]:
        """Answers that are computed, and that wait."""
        return (self.current.runner.n_running, self.current.runner.n_waiting) if self.current else (0, 0)

    async def close(self) -> None:
        """Unload; whoever still uses the model, or waits for another one, hears that it ended."""
        self._is_closing = True
        async with self._freed:
            self._freed.notify_all()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        async with self._lock:
            await self._drop()
        self._threads.shutdown()

    # --- changing the model ------------------------------------------------------------------------------------------

    async def _ready(self, wanted: str) -> LoadedModel:
        model = self.current
        if model is None or model.name != wanted or model.runner.failure or self._lock.locked():
            async with self._lock:
                model = self.current
                if model is None or model.name != wanted or model.runner.failure:
                    model = await self._change(wanted)
                model.n_users += 1
        else:
            model.n_users += 1
        self._stop_idling()
        return model

    async def _change(self, wanted: str) -> LoadedModel:
        current = self.current
        if current is not None:
            async with self._freed:  # a failed engine's requests have ended by now, others finish
                await self._freed.wait_for(lambda: not current.n_users or self._is_closing)
        if self._is_closing:
            raise shutting_down()
        await self._drop()
        try:
            return await self._open(wanted)
        except (QwenctlError, QuantError, OSError, MemoryError) as error:
            what = error.message if isinstance(error, QwenctlError | QuantError) else str(error)
            message = f"the model {wanted} could not be loaded: {what}"
            raise Refused(ApiError(503, message, "model", "load_failed", _RETRY_FAILED_S)) from error

    async def _open(self, name: str) -> LoadedModel:
        opened = await asyncio.get_running_loop().run_in_executor(self._threads, self.source.open, name)
        model = self.current = LoadedModel(name, opened)
        self._metrics.n_loads.inc()
        self._metrics.is_loaded.set(1)
        self._start_idling()
        return model

    async def _drop(self) -> None:
        model, self.current = self.current, None
        if model is not None:
            self._metrics.is_loaded.set(0)
            await asyncio.get_running_loop().run_in_executor(self._threads, model.opened.close)
            self._earlier.append(model.runner.counters)

    # --- idling ------------------------------------------------------------------------------------------------------

    async def _became_free(self) -> None:
        self._start_idling()
        async with self._freed:
            self._freed.notify_all()

    def _stop_idling(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _start_idling(self) -> None:
        self._stop_idling()
        if self._options.idle_unload_s is not None:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._options.idle_unload_s, self._unload_soon)

    def _unload_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._unload_if_free())
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    async def _unload_if_free(self) -> None:
        async with self._lock:
            if self.current is not None and not self.current.n_users:
                with suppress(QwenctlError, QuantError):
                    await self._drop()
