"""What all endpoints work with, and what they do alike: places, the model, replies under way, and how these end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import TypeVar

from qwenctl.core import FinishReason
from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.generation import ChatOptions
from qwenctl.services.reply import ReplyDone
from qwenctl.services.server.admission import Admission
from qwenctl.services.server.asgi_answers import Refused, shutting_down
from qwenctl.services.server.event_inbox import EventInbox
from qwenctl.services.server.exchange import Exchange
from qwenctl.services.server.model_host import LoadedModel, ModelHost, ModelSource
from qwenctl.services.server.request_body import BodyReader
from qwenctl.services.server.server_metrics import ServerMetrics
from qwenctl.services.server.server_options import ServerOptions

T = TypeVar("T")

_RETRY_DEAD_S = 5
PREPARE_THREADS = "qwenctl-prepare"


class Desk:
    """Made on the event loop.

    Args:
        n_parallel: answers that the engine computes at once, as far as is known before a model is loaded.
        defaults: what holds where a request says nothing.
    """

    def __init__(
        self, source: ModelSource, options: ServerOptions, n_parallel: int, defaults: ChatOptions | None = None
    ) -> None:
        self.options = options
        self._n_parallel = n_parallel
        self.defaults = defaults or ChatOptions()
        self.metrics = ServerMetrics()
        self.host = ModelHost(source, options, self.metrics)
        self.metrics.watch_engine(lambda: self.host.load, lambda: self.host.counters)
        self.admission = Admission(lambda: self.n_parallel + options.limits.n_waiting)
        self.bodies = BodyReader(options.limits)
        self.live: dict[str, Exchange] = {}  # by the id of the answer
        self._inbox = EventInbox()
        # Templates, tokens and grammars: milliseconds for most prompts, seconds for the longest.
        self._threads = ThreadPoolExecutor(2, PREPARE_THREADS)

    @property
    def n_parallel(self) -> int:
        """Answers that are computed at once."""
        model = self.host.current
        return model.opened.n_parallel if model else self._n_parallel

    async def off_loop(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, made on another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def exchange(self, model: LoadedModel, *, is_urgent: bool) -> Exchange:
        """Return a new exchange with `model`."""
        return Exchange(model.runner, self._inbox, is_urgent=is_urgent)

    def ended(self, done: ReplyDone, model: LoadedModel) -> ReplyDone:
        """Count a reply and return it.

        Raises:
            Refused: it did not end as it should.
        """
        self.metrics.count_reply(done)
        if done.reason is FinishReason.CANCELLED:
            raise shutting_down()
        if done.reason is FinishReason.ERROR:
            what = done.error or "the model stopped with an error"
            if model.runner.failure is not None:  # the next request loads it again
                raise Refused(ApiError(503, what, None, "engine_failed", _RETRY_DEAD_S))
            raise Refused(ApiError(500, what, None, "generation_failed"))
        return done

    async def close(self) -> None:
        """Unload the model and end the threads, as far as they can be ended."""
        await self.host.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def new_id(prefix: str) -> str:
    """Return a name that nobody can guess: whoever knows it may say "answer now"."""
    return f"{prefix}{token_hex(12)}"
