"""How fast a model is here, one request at a time: prompts of several lengths, and an answer to each.

By the engine's own clock: from the first token of the prompt that is computed to the first that is sampled, and from
there to the end of the answer. Every prompt is new from its first word on, so none comes from a cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from qwenctl.core import Finished, FinishReason, Message
from qwenctl.errors import GenerationFailed
from qwenctl.services.bench.bench_prompts import text_of_tokens
from qwenctl.services.generation import ChatModel, ChatOptions


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """Medians of the rounds with prompts of one length."""

    n_prompt_tokens: int
    n_generated_tokens: int
    first_token_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float | None  # None: the answers had one token only


def measure_model(
    model: ChatModel,
    lengths: Sequence[int],
    n_generated: int,
    n_rounds: int,
    on_request: Callable[[], None] = lambda: None,
) -> list[SpeedRow]:
    """Return a row a length, in tokens; answers end after `n_generated` tokens, or when the model ends them.

    Lengths take turns, so that whatever else the machine does meets all of them. `on_request` is called after each.

    Raises:
        PromptTooLong: a length does not fit into the context.
        GenerationFailed: llama.cpp failed.
    """
    seeds = count()
    _answer(model, 16, 2, next(seeds))  # the first one pays for pages and caches
    found: dict[int, list[Finished]] = {length: [] for length in lengths}
    for _ in range(n_rounds):
        for length, answers in found.items():
            answers.append(_answer(model, length, n_generated, next(seeds)))
            on_request()
    return [_row(answers) for answers in found.values()]


def _answer(model: ChatModel, n_prompt_tokens: int, n_generated: int, seed: int) -> Finished:
    def n_tokens(text: str) -> int:
        return len(model.engine.tokenize(text))

    n_template = len(model.prepare([Message("user", "x")]).request.prompt_tokens)
    text = text_of_tokens(max(1, n_prompt_tokens - n_template), n_tokens, seed)
    options = ChatOptions(sampling={"temperature": 0}, max_tokens=n_generated)
    *_, last = model.engine.generate(model.prepare([Message("user", text)], options).request)
    if not isinstance(last, Finished) or last.reason is FinishReason.CANCELLED:
        raise GenerationFailed("the answer was broken off")
    return last


def _row(answers: Sequence[Finished]) -> SpeedRow:
    decoding = [
        (one.usage.n_generated_tokens - 1) / one.timing.decode_s
        for one in answers
        if one.usage.n_generated_tokens > 1 and one.timing.decode_s > 0
    ]
    return SpeedRow(
        n_prompt_tokens=round(statistics.median(one.usage.n_prompt_tokens for one in answers)),
        n_generated_tokens=round(statistics.median(one.usage.n_generated_tokens for one in answers)),
        first_token_s=statistics.median(one.timing.prefill_s for one in answers),
        prefill_tokens_per_s=statistics.median(
            (one.usage.n_prompt_tokens - one.usage.n_cached_tokens) / max(1e-9, one.timing.prefill_s) for one in answers
        ),
        decode_tokens_per_s=statistics.median(decoding) if decoding else None,
    )
