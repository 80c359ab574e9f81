"""What every engine does in the same way, in this process (engine.py) or in one of its own (engine_process.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest
from qwenctl.errors import GenerationFailed, InvalidRequest

TakeEvents = Callable[[Sequence[GenerationEvent]], None]


class EngineSurface(ABC):
    """One request alone, by way of `submit` and `step`; and closing at the end of a `with`."""

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether `step` would do something."""

    @abstractmethod
    def submit(self, request: GenerationRequest) -> None:
        """Queue a request: its events come from `step`."""

    @abstractmethod
    def end_thinking(self, request_id: str) -> None:
        """Close a request's think block now: the answer follows. Unknown and finished ones are ignored."""

    @abstractmethod
    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        """Compute once for all requests that can run; [] when there is nothing to do.

        Args:
            meanwhile: called, perhaps more than once, when computing has begun, with the events of this step so far;
                they are not returned again. Not called at all when nothing is computed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    @abstractmethod
    def _drop_everything(self) -> None:
        """End what is under way and forget its events."""

    @property
    def failure(self) -> GenerationFailed | None:
        """Why nothing can be generated any more, whatever the request; None: it can."""
        return None

    def _failure_of(self, event: Finished) -> GenerationFailed:
        """Return what to raise for a request that ended with an error."""
        return GenerationFailed(event.error or "llama.cpp failed")

    @abstractmethod
    def occupy(self, loop: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        """Run `loop`, which steps this engine, on the thread that suits best.

        Args:
            loop: steps until it has enough; nobody else may step or embed meanwhile.
            end: makes it return soon. An engine that cannot be closed before calls it then.

        Returns:
            What waits for the end of `loop`.
        """

    @abstractmethod
    def rest(self) -> None:
        """Do what was put off until there is nothing to compute. By the loop of `occupy`, before it waits."""

    def generate(self, request: GenerationRequest) -> Iterator[GenerationEvent]:
        """Submit `request` and step until it is finished. Only while the engine has nothing else to do.

        Closing the iterator early ends the request.

        Raises:
            PromptTooLong, InvalidRequest: as `submit`.
            GenerationFailed: instead of an event with `FinishReason.ERROR`; the engine's process died, for example.
        """
        if self.has_work:
            raise InvalidRequest("the engine is at work: generate is for one request at a time, submit for more")
        self.submit(request)
        try:
            while self.has_work:
                for event in self.step():
                    if isinstance(event, Finished) and event.reason is FinishReason.ERROR:
                        raise self._failure_of(event)
                    yield event
        finally:
            self._drop_everything()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
