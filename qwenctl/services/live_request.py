"""One request from its submission to its last event: its tokens, text, sampler, and when things happened.

Knows nothing of batches and slots but the number of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, TextDelta, Timing, Usage
from qwenctl.services.kv_slots import Slot
from qwenctl.services.sampler_chain import SamplerChain
from qwenctl.services.text_stream import TextStream
from qwenctl.services.vocabulary import Vocabulary


class LiveRequest:
    """A request that the engine has taken.

    Args:
        request: as submitted.
        sampler: freed by `finish`.
        n_ctx: tokens that prompt and answer may have together.
        clock: seconds.
    """

    def __init__(
        self, request: GenerationRequest, sampler: SamplerChain, n_ctx: int, clock: Callable[[], float]
    ) -> None:
        self.request = request
        self.tokens = list(request.prompt_tokens)  # and those generated
        self.slot: Slot | None = None
        self.waits_for_end = -1  # held back: the number of ended requests to wait for
        self._sampler = sampler
        self._text = TextStream(request.stop)
        room = n_ctx - len(request.prompt_tokens)
        self._most_tokens = room if request.max_tokens is None else min(room, request.max_tokens)
        self._clock = clock
        self._submitted_s = clock()
        self._started_s: float | None = None
        self._first_token_s: float | None = None
        self._n_cached: int | None = None
        self._n_from_disk = 0

    @property
    def request_id(self) -> str:
        """The caller's name for it."""
        return self.request.request_id

    @property
    def n_generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - len(self.request.prompt_tokens)

    @property
    def n_may_follow(self) -> int:
        """Tokens that may still be generated."""
        return self._most_tokens - self.n_generated

    def admit(self, slot: Slot, n_from_disk: int = 0) -> None:
        """It got a slot, whose tokens need not be computed; `n_from_disk` of them have just been read."""
        self.slot = slot
        if self._n_cached is None:  # not when it comes back after having been held back
            self._n_cached, self._n_from_disk = len(slot.tokens), n_from_disk

    def start(self) -> None:
        """Its first tokens are about to be computed."""
        if self._started_s is None:
            self._started_s = self._clock()

    def sample(self, context: object, index: int, vocabulary: Vocabulary) -> list[GenerationEvent]:
        """Choose the next token from the logits of the batch's token `index`; return what there is to say.

        Raises:
            GenerationFailed: no token can be chosen.
        """
        token = self._sampler.sample(context, index)
        if self._first_token_s is None:
            self._first_token_s = self._clock()
        self.tokens.append(token)
        if vocabulary.ends_generation(token):
            return self.finish(FinishReason.STOP)
        text = self._text.feed(vocabulary.piece(token))
        events: list[GenerationEvent] = []
        if text:
            events.append(TextDelta(self.request_id, text, self.n_generated))
        if self._text.stopped:
            return events + self.finish(FinishReason.STOP)
        if self.n_may_follow <= 0:
            return events + self.finish(FinishReason.LENGTH)
        return events

    def finish(self, reason: FinishReason, error: str | None = None) -> list[GenerationEvent]:
        """End it: the text that was held back, and the last event."""
        self._sampler.close()
        events: list[GenerationEvent] = []
        if text := self._text.finish():
            events.append(TextDelta(self.request_id, text, self.n_generated))
        usage = Usage(len(self.request.prompt_tokens), self._n_cached or 0, self.n_generated, self._n_from_disk)
        return [*events, Finished(self.request_id, reason, usage, self._timing(), error)]

    def _timing(self) -> Timing:
        end = self._clock()
        started = end if self._started_s is None else self._started_s
        first = end if self._first_token_s is None else self._first_token_s
        return Timing(started - self._submitted_s, first - started, end - first, self._sampler.seed)
