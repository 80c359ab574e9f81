"""An engine that says what a test tells it to: the double of services/engine.py for the layers above it.

One character is one token, so token counts can be read off the text. Each reply is a list of pieces of text, one piece
a generated token; an exception in the list ends that request with an error. Nothing is loaded or computed.

Think blocks are followed as the engine does it: at the end of their budget, or when `end_thinking` is called, the
block's ending comes as one token, and what the script has up to `</think>` is left out. Prompts are "computed" in two
halves where progress is asked for, and every token's probability is e⁻¹ where logprobs are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qwenctl.core import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    ModelInfo,
    PromptProgress,
    TextDelta,
    ThinkingEnd,
    Timing,
    TokenChance,
    TokenLogprob,
    Usage,
)
from qwenctl.errors import GenerationFailed, InvalidRequest, PromptTooLong
from qwenctl.services.engine_surface import TakeEvents
from qwenctl.services.think_monitor import ThinkMonitor

Script = Sequence[str | Exception]


@dataclass
class _Sequence:
    request: GenerationRequest
    script: deque[str | Exception]
    n_tokens: int = 0
    cancelled: bool = False
    think: ThinkMonitor | None = None

    def close_block(self, why: ThinkingEnd) -> str:
        """Go to where the script's own block ends; return the ending in its place."""
        assert self.think is not None
        assert self.request.think is not None
        self.think.close(why)
        while self.script:
            piece = self.script.popleft()
            if isinstance(piece, str) and "</think>" in piece:
                self.script.appendleft(piece.partition("</think>")[2].lstrip("\n"))
                break
        return self.request.think.ending


@dataclass
class ScriptedEngine:
    """Answers the first submitted request with the first of `replies`, and so on; then with `answer(prompt)`."""

    replies: Sequence[Script] = ()
    answer: Callable[[str], Script] = lambda prompt: [f"{len(prompt)}", " characters"]
    chat_template: str | None = None
    n_ctx: int = 4096
    n_parallel: int = 1
    architecture: str = "qwen3moe"
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    seconds_per_step: float = 0.0
    history: list[GenerationRequest] = field(default_factory=list)  # every request, in order of submission
    most_active: int = 0  # sequences that ran at the same time
    ended_thinking: list[str] = field(default_factory=list)  # whose think block was to be closed
    closed: bool = False
    failure: GenerationFailed | None = None  # of the engine as a whole

    def __post_init__(self) -> None:
        self._queue = deque(self.replies)
        self._waiting: deque[_Sequence] = deque()
        self._active: list[_Sequence] = []

    def offload_stats(self) -> dict[str, Any] | None:
        return None

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            path="/models/scripted.gguf",
            name="scripted",
            architecture=self.architecture,
            n_weights=1000,
            file_bytes=2000,
            n_layers=2,
            n_experts=4,
            n_experts_used=2,
            n_vocab=0x110000,
            n_ctx_train=self.n_ctx,
            n_ctx=self.n_ctx,
            chat_template=self.chat_template,
            sampling_defaults=self.sampling_defaults,
            bos_token="<s>",
            eos_token="</s>",
        )

    @property
    def prompts(self) -> list[str]:
        """The text of every prompt that was submitted."""
        return [self.detokenize(request.prompt_tokens) for request in self.history]

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool = False) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def embed(self, token_lists: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Return the direction of (number of tokens, first token, 1)."""
        if not all(token_lists):
            raise InvalidRequest("the prompt is empty: there is nothing to go on from")
        rows = np.array([(len(tokens), tokens[0], 1) for tokens in token_lists], np.float32).reshape(-1, 3)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def submit(self, request: GenerationRequest) -> None:
        if len(request.prompt_tokens) >= self.n_ctx:
            raise PromptTooLong(len(request.prompt_tokens), self.n_ctx)
        self.history.append(request)
        script = self._queue.popleft() if self._queue else self.answer(self.detokenize(request.prompt_tokens))
        think = ThinkMonitor(request.think, request.think.budget) if request.think else None
        self._waiting.append(_Sequence(request, deque(script), think=think))

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._active)

    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        while self._waiting and len(self._active) < self.n_parallel:
            self._active.append(self._waiting.popleft())
        self.most_active = max(self.most_active, len(self._active))
        if meanwhile and self._active:
            meanwhile(())
        if self.seconds_per_step and self._active:
            time.sleep(self.seconds_per_step)
        events = [event for sequence in list(self._active) for event in self._advance(sequence)]
        done = {event.request_id for event in events if isinstance(event, Finished)}
        self._active = [sequence for sequence in self._active if sequence.request.request_id not in done]
        return events

    def cancel(self, request_id: str) -> None:
        for sequence in [*self._waiting, *self._active]:
            if sequence.request.request_id == request_id:
                sequence.cancelled = True

    def end_thinking(self, request_id: str) -> None:
        self.ended_thinking.append(request_id)
        for sequence in [*self._waiting, *self._active]:
            if sequence.request.request_id == request_id and sequence.think:
                sequence.think.ask()

    def generate(self, request: GenerationRequest) -> Iterator[GenerationEvent]:
        self.submit(request)
        try:
            while True:
                for event in self.step():
                    if isinstance(event, Finished) and event.reason is FinishReason.ERROR:
                        raise GenerationFailed(event.error or "")
                    yield event
                    if isinstance(event, Finished):
                        return
        finally:
            self._active = [one for one in self._active if one.request.request_id != request.request_id]

    def rest(self) -> None:
        pass

    def occupy(self, loop: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        thread = threading.Thread(target=loop)
        thread.start()
        return thread.join

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self, sequence: _Sequence) -> list[GenerationEvent]:
        if sequence.cancelled:
            return [self._finished(sequence, FinishReason.CANCELLED)]
        if sequence.n_tokens == sequence.request.max_tokens:
            return [self._finished(sequence, FinishReason.LENGTH)]
        if not sequence.script:
            return [self._finished(sequence, FinishReason.STOP)]
        think, request = sequence.think, sequence.request
        progress = self._progress(request) if sequence.n_tokens == 0 and request.reports_progress else []
        if think and think.due:
            piece: str | Exception = sequence.close_block(think.due)
        else:
            piece = sequence.script.popleft()
        if isinstance(piece, Exception):
            return [*progress, self._finished(sequence, FinishReason.ERROR, str(piece))]
        if think and not think.end:
            think.take(piece.encode(), ())
        sequence.n_tokens += 1
        return [*progress, TextDelta(request.request_id, piece, sequence.n_tokens, self._logprobs(request, piece))]

    def _progress(self, request: GenerationRequest) -> list[GenerationEvent]:
        n_total = len(request.prompt_tokens)
        return [PromptProgress(request.request_id, n_done, 0, n_total) for n_done in (n_total // 2, n_total)]

    def _logprobs(self, request: GenerationRequest, piece: str) -> tuple[TokenLogprob, ...]:
        if request.n_logprobs is None:
            return ()
        chosen = TokenChance(ord(piece[0]) if piece else 0, piece, -1.0)
        return (TokenLogprob(chosen, (chosen,) * min(1, request.n_logprobs)),)

    def _finished(self, sequence: _Sequence, reason: FinishReason, error: str | None = None) -> Finished:
        request = sequence.request
        seed = 7 if request.sampling.seed is None else request.sampling.seed
        usage = Usage(len(request.prompt_tokens), 0, sequence.n_tokens)
        end = sequence.think.end if sequence.think else None
        return Finished(request.request_id, reason, usage, Timing(0.0, 0.1, 0.2, seed), error, None, end)
