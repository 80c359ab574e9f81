"""One request from its submission to its last event: its tokens, text, think block, sampler, and when things happened.

A think block that goes on for too long is closed here: the tokens of its ending are added to the sequence as if they
were more of the prompt, and the next token is sampled when they have been computed. Knows nothing of batches and slots
but the number of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenctl.core import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    PromptProgress,
    TextDelta,
    ThinkBlock,
    ThinkingEnd,
    Timing,
    TokenLogprob,
    Usage,
)
from qwenctl.services.batch_logits import TokenLogits
from qwenctl.services.kv_slots import Slot
from qwenctl.services.sampler_chain import SamplerChain
from qwenctl.services.text_stream import TextStream
from qwenctl.services.think_monitor import ThinkMonitor, thinking_limit
from qwenctl.services.thinking import CLOSE_TAG
from qwenctl.services.token_chances import token_logprob
from qwenctl.services.vocabulary import Vocabulary

_PLAIN_ENDING = f"\n{CLOSE_TAG}\n\n"


class LiveRequest:
    """A request that the engine has taken.

    Args:
        request: as submitted.
        sampler: freed by `finish`.
        vocabulary: of the model.
        n_ctx: tokens that prompt and answer may have together.
        clock: seconds.
    """

    def __init__(
        self,
        request: GenerationRequest,
        sampler: SamplerChain,
        vocabulary: Vocabulary,
        n_ctx: int,
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.tokens = list(request.prompt_tokens)  # and those generated
        self.slot: Slot | None = None
        self.waits_for_end = -1  # held back: the number of ended requests to wait for
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._text = TextStream(request.stop)
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text is not out yet
        room = n_ctx - len(request.prompt_tokens)
        self._most_tokens = room if request.max_tokens is None else min(room, request.max_tokens)
        self._ending: tuple[int, ...] = ()
        self._think = self._watch(request.think) if request.think else None  # None: no block, or no more of it
        self._thinking_end: ThinkingEnd | None = None
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
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_prompt(self) -> int:
        """Tokens of its prompt."""
        return len(self.request.prompt_tokens)

    @property
    def n_may_follow(self) -> int:
        """Tokens that may still be generated."""
        return self._most_tokens - self.n_generated

    def admit(self, slot: Slot) -> None:
        """It got a slot, whose tokens need not be computed."""
        self.slot = slot
        if self._n_cached is None:  # not when it comes back after having been held back
            self._n_cached = len(slot.tokens)

    def restored(self, n_tokens: int) -> None:
        """`n_tokens` have been read from the disk into its slot, in place of what was there; 0: nothing was."""
        if self.slot and self._started_s is None:
            self._n_cached, self._n_from_disk = len(self.slot.tokens), n_tokens

    def start(self) -> None:
        """Its first tokens are about to be computed."""
        if self._started_s is None:
            self._started_s = self._clock()

    def progress(self, n_computed: int) -> PromptProgress:
        """Return how far the prompt is, `n_computed` tokens of the sequence being in the KV cache."""
        n_done = min(n_computed, self.n_prompt)
        return PromptProgress(self.request_id, n_done, self._n_cached or 0, self.n_prompt)

    def end_thinking(self) -> None:
        """Close the think block before the next token."""
        if self._think:
            self._think.ask()

    def sample(self, logits: TokenLogits) -> list[GenerationEvent]:
        """Choose the next token from the logits of the last one; return what there is to say.

        Raises:
            GenerationFailed: no token can be chosen.
        """
        think = self._think
        if think is not None and think.due and not self._text.splits_character:
            return self._close_block(think, think.due)
        token = self._sampler.sample(logits) if think is None else self._think_on(think, logits)
        if self._first_token_s is None:
            self._first_token_s = self._clock()
        if self._vocabulary.ends_generation(token):
            if think is not None and think.is_open:
                return self._close_block(think, "model")
            if think is not None and think.owes_answer:
                token = self._answer_at_least(token, logits)
        if self._vocabulary.ends_generation(token):
            self.tokens.append(token)
            return self.finish(FinishReason.STOP)
        self.tokens.append(token)
        piece = self._vocabulary.piece(token)
        if think is not None:
            rest = think.take(piece, self.tokens)
            self._follow(think)
            if rest.strip(b"\n") and self._sampler.has_grammar:
                return self._without(piece, rest)
        if self.request.n_logprobs is not None:
            n_likeliest, text = self.request.n_logprobs, self._vocabulary.text
            self._logprobs.append(token_logprob(logits.values, token, n_likeliest, text))
        return self._said(piece)

    def finish(self, reason: FinishReason, error: str | None = None) -> list[GenerationEvent]:
        """End it: the text that was held back, and the last event."""
        self._sampler.close()
        events = self._delta(self._text.finish())
        usage = Usage(self.n_prompt, self._n_cached or 0, self.n_generated, self._n_from_disk)
        stop_text, thinking_end = self._text.stopped_by, self._thinking_end
        return [
            *events,
            Finished(self.request_id, reason, usage, self._timing(), error, stop_text, thinking_end),
        ]

    def _said(self, piece: bytes) -> list[GenerationEvent]:
        """Return what `piece`, the end of the tokens, brings; it may be the last of all."""
        events = self._delta(self._text.feed(piece))
        if self._text.stopped_by is not None:
            return events + self.finish(FinishReason.STOP)
        if self.n_may_follow <= 0:
            return events + self.finish(FinishReason.LENGTH)
        return events

    def _delta(self, text: str) -> list[GenerationEvent]:
        if not text:
            return []
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._logprobs:
            logprobs, self._logprobs = tuple(self._logprobs), []
        return [TextDelta(self.request_id, text, self.n_generated, logprobs)]

    # --- the think block ---------------------------------------------------------------------------------------------

    def _watch(self, block: ThinkBlock) -> ThinkMonitor:
        self._ending = self._vocabulary.tokenize(block.ending)
        think = ThinkMonitor(block, thinking_limit(block.budget, self._most_tokens, len(self._ending)))
        self._text.watches_stops = think.watches_stops
        return think

    def _think_on(self, think: ThinkMonitor, logits: TokenLogits) -> int:
        if think.is_open:
            return self._sampler.sample_freely(logits)
        piece = self._vocabulary.piece
        return self._sampler.sample(logits, exempt=lambda token: think.is_exempt(piece(token)))

    def _answer_at_least(self, end: int, logits: TokenLogits) -> int:
        """A model that is interrupted while it thinks may have nothing to say: it is to say something."""
        if self._sampler.has_grammar:  # which allows an empty answer
            return end
        ends = [end]
        while self._vocabulary.ends_generation(token := self._sampler.sample_other(logits, ends)):
            ends.append(token)
        return token

    def _close_block(self, think: ThinkMonitor, why: ThinkingEnd) -> list[GenerationEvent]:
        """Go on as if the model had written the ending itself."""
        think.close(why)
        self._follow(think)
        # A model that ends its turn within the block was not cut short: no sentence says so.
        return self._force(self._ending if why != "model" else self._vocabulary.tokenize(_PLAIN_ENDING))

    def _without(self, piece: bytes, rest: bytes) -> list[GenerationEvent]:
        """The token that closed the block says more, which no grammar has seen: write its beginning in its place."""
        self.tokens.pop()
        return self._force(self._vocabulary.tokenize(piece[: len(piece) - len(rest)].decode("utf-8", "replace")))

    def _force(self, tokens: Sequence[int]) -> list[GenerationEvent]:
        forced = tokens[: self.n_may_follow]
        self.tokens += forced
        self._sampler.remember(forced)
        return self._said(b"".join(map(self._vocabulary.piece, forced)))

    def _follow(self, think: ThinkMonitor) -> None:
        self._text.watches_stops = think.watches_stops
        self._thinking_end = think.end
        if think.is_over:
            self._think = None

    def _timing(self) -> Timing:
        end = self._clock()
        started = end if self._started_s is None else self._started_s
        first = end if self._first_token_s is None else self._first_token_s
        return Timing(started - self._submitted_s, first - started, end - first, self._sampler.seed)
