"""An engine in a process of its own, for the same callers as engine.py: ggml aborts its process when a remote device
goes away, and this one is to live on.

    Engine's surface → a call over a pipe (engine_child.py) → engine_worker.py → Engine
    events come back with the answer to `step`; what is under way is known here too, and ends here when the process does

Where the process dies, or a worker hangs that it waits for, for which it is killed (engine_servers.py), each request
under way ends with an error, and every later call raises the same one. Knows nothing of how the engine works.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Self, TypeVar

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, ModelInfo, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest, ModelLoadFailed
from qwenctl.services.embedder import Embeddings
from qwenctl.services.engine_child import ChildDied, EngineChild
from qwenctl.services.engine_messages import MessageTooLarge, Opened, decode, decode_events
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.engine_rows import decode_rows
from qwenctl.services.engine_servers import EngineServers
from qwenctl.services.engine_surface import EngineSurface, TakeEvents
from qwenctl.services.under_way import UnderWay

T = TypeVar("T")

_CLOSE_LIMIT_S = 10.0  # a step that waits for a remote device cannot be broken off


class EngineProcess(EngineSurface):
    """An opened model in another process. Use `EngineProcess.open`, and close it, or use it as a context manager.

    Threads may share it as they may share an `Engine`.
    """

    def __init__(self, child: EngineChild, opened: Opened, options: EngineOptions, servers: EngineServers) -> None:
        self.info: ModelInfo = opened.info
        self.placement, self.warnings = opened.placement, opened.warnings  # as Engine has them
        self.options = options
        self._child = child
        self._servers = servers
        self._stop = weakref.finalize(self, child.kill)
        self._under_way: dict[str, UnderWay] = {}
        self._events: deque[GenerationEvent] = deque()  # not returned by `step` yet
        self._failure: GenerationFailed | None = None
        self._closed = False

    @classmethod
    def open(cls, path: Path, options: EngineOptions | None = None, child: EngineChild | None = None) -> Self:
        """Start the process and load a GGUF file there.

        Args:
            path: the file.
            options: with `rpc`, the devices of those servers are used too.
            child: another process than engine_worker.py.

        Raises:
            ModelLoadFailed: a server of `rpc` does not answer, llama.cpp refuses the file, or the process died.
            Exception: what `Engine.open` raises.
        """
        options = options or EngineOptions()
        servers = EngineServers(options.rpc)
        child = child or EngineChild()
        try:
            servers.watch(child.kill)
            opened = child.call("open", partial(decode, Opened), path=path, options=options)
        except ChildDied as died:
            servers.close()
            child.close()
            reason, hint = servers.reason_of(died.death)
            raise ModelLoadFailed(f"{path} could not be loaded: {reason}", hint) from None
        except BaseException:
            servers.close()
            child.kill()
            child.close()
            raise
        return cls(child, opened, options, servers)

    @property
    def failure(self) -> GenerationFailed | None:
        """Why the process ended; None: it did not. Known without a call, also while nothing is to be done."""
        if (death := self._child.death) and not self._failure and not self._closed:
            self._fail(GenerationFailed(*self._servers.reason_of(death)))
        return self._failure

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._under_way or self._events)

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool = False) -> tuple[int, ...]:
        """Return the tokens of `text`, as `Engine.tokenize` does.

        Raises:
            InvalidRequest: the text is longer than a message may be (256 MiB).
            GenerationFailed: the model is closed, or its process died.
        """
        take = partial(decode, tuple[int, ...])
        return self._call("tokenize", take, text=text, parse_special=parse_special, add_special=add_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text that `tokens` show; control tokens show nothing."""
        return self._call("detokenize", partial(decode, str), tokens=tuple(tokens))

    def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
        """Return a normalised vector of each list of tokens, as `Engine.embed` does and raises."""
        return self._call("embed", decode_rows, token_lists=[tuple(tokens) for tokens in token_lists])

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request: its events come from `step`.

        Raises:
            PromptTooLong, InvalidRequest, GenerationFailed: as `Engine.submit`; also when the process died.
        """
        is_new = request.request_id not in self._under_way
        if is_new:
            self._under_way[request.request_id] = UnderWay(request)
        try:
            self._call("submit", _nothing, request=request)
        except BaseException as error:
            if is_new:
                if not isinstance(error, Exception):  # interrupted: it may have been taken
                    self.cancel(request.request_id)
                self._under_way.pop(request.request_id, None)
            raise

    def cancel(self, request_id: str) -> None:
        """End a request early: the next `step` returns its `Finished`. Unknown and finished ones are ignored.

        What is being computed for it is broken off. Callable from signal handlers and other threads; never waits.
        """
        if request_id in self._under_way:
            self._child.tell("cancel", request_id=request_id)

    def end_thinking(self, request_id: str) -> None:
        """Close a request's think block before its next token, as `Engine.end_thinking` does; never waits."""
        if request_id in self._under_way:
            self._child.tell("end_thinking", request_id=request_id)

    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        """Compute once for all requests that can run; [] when there is nothing to do. `meanwhile` is called before.

        A request that fails ends with `FinishReason.ERROR`; when the process dies, all of them do.
        """
        if self._under_way and not self._closed and not self._failure:
            if meanwhile is not None:
                meanwhile(())
            with suppress(GenerationFailed):  # those under way have had their last event then
                self._call("step", self._take_events)
        return self._taken()

    def occupy(self, loop: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        """Run `loop` on a thread of its own; closing does not depend on its end. Returns what waits for that."""
        del end
        thread = threading.Thread(target=loop, name="qwenctl-steps", daemon=True)
        thread.start()
        return thread.join

    def rest(self) -> None:
        """Nothing is put off on this side."""

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books on slots and cells agree."""
        self._call("check_integrity", _nothing)

    def offload_stats(self) -> dict[str, Any] | None:
        """Return placement and counters of the expert scheduler; None: nothing is offloaded."""
        return self._call("offload_stats", _object_or_nothing)

    def close(self) -> None:
        """Free the model and end the process. Requests under way end as cancelled: `step` still returns their events.

        A process that does not react for ten seconds, because a remote device does not, is killed.
        """
        if self._closed:
            return
        self._closed = True
        self._servers.close()
        try:
            if not self._failure:
                self._child.call("close", self._take_events, limit_s=_CLOSE_LIMIT_S)
        except (ChildDied, TimeoutError):
            self._child.kill()
        finally:
            self._stop.detach()
            self._child.close()
            self._end_all(FinishReason.CANCELLED)

    # --- calls and how they end --------------------------------------------------------------------------------------

    def _call(self, name: str, take: Callable[[Any], T], *, limit_s: float = math.inf, **fields: object) -> T:
        if self._closed:
            raise GenerationFailed("the model is closed")
        if self._failure:
            raise self._failure
        try:
            return self._child.call(name, take, limit_s=limit_s, **fields)
        except ChildDied as died:
            raise self._fail(GenerationFailed(*self._servers.reason_of(died.death))) from None
        except TimeoutError:
            self._child.kill()
            what = f"the engine's process did not react for {limit_s:g} s and was ended"
            raise self._fail(GenerationFailed(what)) from None
        except MessageTooLarge as error:
            raise InvalidRequest(f"the text is too long for the engine's process: {error}") from error

    def _fail(self, failure: GenerationFailed) -> GenerationFailed:
        """The process has ended. Returns the error to raise: the first one stays."""
        if self._closed:
            self._end_all(FinishReason.CANCELLED)
            return GenerationFailed("the model is closed")
        self._failure = self._failure or failure
        self._end_all(FinishReason.ERROR, self._failure.message)
        return self._failure

    def _end_all(self, reason: FinishReason, error: str | None = None) -> None:
        while self._under_way:
            with suppress(KeyError):  # another thread was faster
                self._events.append(self._under_way.popitem()[1].finish(reason, error))

    def _take_events(self, value: object) -> None:
        """File an answer to `step`. On the reading thread: what comes is kept even if nobody waits for it any more."""
        for event in decode_events(value):
            under_way = self._under_way.get(event.request_id)
            if under_way is None:
                continue  # its submission was interrupted
            if isinstance(event, TextDelta):
                under_way.n_tokens = event.n_tokens
            elif isinstance(event, Finished):
                del self._under_way[event.request_id]
            self._events.append(event)

    def _taken(self) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        with suppress(IndexError):
            while True:
                events.append(self._events.popleft())
        return events

    def _failure_of(self, event: Finished) -> GenerationFailed:
        return self._failure or super()._failure_of(event)

    def _drop_everything(self) -> None:
        """End what is under way and forget its events."""
        for request_id in list(self._under_way):
            self.cancel(request_id)
        with suppress(GenerationFailed):
            while self._under_way:
                self._call("step", self._take_events, limit_s=_CLOSE_LIMIT_S)
        self._events.clear()


def _object_or_nothing(value: object) -> dict[str, Any] | None:
    return None if value is None else dict(decode(dict[str, Any], value))


def _nothing(value: object) -> None:
    """Take an answer that says no more than that the call is done."""
    decode(NoneType, value)
