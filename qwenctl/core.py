"""The nouns that services and commands share. Values only: no files, no threads, no native handles.

A request goes to the engine as a `GenerationRequest` and comes back as a stream of `GenerationEvent`s: while its prompt
is computed, `PromptProgress` if that was asked for; any number of `TextDelta`s; then exactly one `Finished`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

N_SEEDS = 0xFFFF_FFFF  # they are the numbers below it: llama.cpp takes this one for "any" (LLAMA_DEFAULT_SEED)

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as chat templates see it."""

    role: Role
    content: str
    reasoning: str | None = None  # what an assistant thought before it answered
    extra: Mapping[str, Any] = field(default_factory=dict)  # tool_calls, name …, passed to the template as they are


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The order of the samplers is llama.cpp's own.

    Raises:
        ValueError: a parameter is out of its range; the message names it.
    """

    temperature: float = 0.7  # 0 is greedy
    top_k: int = 20  # 0: off
    top_p: float = 0.8
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    penalty_last_n: int = 64  # tokens looked back on by the penalties; -1: the whole context
    seed: int | None = None  # None: a fresh one, reported in `Timing`
    grammar: str | None = None  # GBNF with the start rule `root`

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 100.0),
            ("top_k", 0, 1 << 30),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
            ("repeat_penalty", 0.01, 100.0),
            ("penalty_last_n", -1, 1 << 30),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # also false for NaN
                raise ValueError(f"{name} must lie between {low} and {high}, not {value}")
        if self.seed is not None and not 0 <= self.seed < N_SEEDS:
            raise ValueError(f"seed must lie between 0 and {N_SEEDS - 1}, not {self.seed}")


@dataclass(frozen=True, slots=True)
class TokenBias:
    """What is added to the logit of one token before anything else is done with it."""

    token: int
    bias: float  # -inf is not JSON: -100 and below never lets the token through


@dataclass(frozen=True, slots=True)
class ThinkBlock:
    """A reply that may begin with a think block, and how the engine is to guard it.

    What the request's grammar allows begins after the block's end, where there is one.
    """

    starts_inside: bool  # the prompt has opened the block
    budget: int | None = None  # tokens of thinking after which the block is closed; None: what the answer can spare
    ending: str = "\n</think>\n\n"  # text that closes a block early, the line breaks after it included
    loop_guard: bool = True  # close the block when the thinking repeats itself without end


ThinkingEnd = Literal["model", "budget", "asked", "loop"]


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its turn, or a stop string appeared
    LENGTH = "length"  # max_tokens, or the end of the context
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    `prompt_tokens` is already rendered and tokenized; the engine knows nothing of messages and templates.
    """

    request_id: str
    prompt_tokens: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()  # text that ends the answer; never part of the output; has no effect on thinking
    think: ThinkBlock | None = None  # None: the reply has no think block
    n_logprobs: int | None = None  # likeliest tokens reported with each generated one, 0: itself alone; None: nothing
    logit_bias: tuple[TokenBias, ...] = ()
    reports_progress: bool = False  # whether `PromptProgress` is wanted


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    n_prompt_tokens: int
    n_cached_tokens: int  # of the prompt, taken from the KV cache instead of computed
    n_generated_tokens: int
    n_from_disk: int = 0  # of the cached ones, those read from the prefix cache on disk


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one request, on the engine's clock."""

    queued_s: float  # from submission until its first prompt token was computed
    prefill_s: float  # until the first token was sampled
    decode_s: float  # from the first token until the end
    seed: int  # the seed that was used


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of a prompt is in the KV cache."""

    request_id: str
    n_done_tokens: int  # those taken from a cache included
    n_cached_tokens: int  # taken from a cache instead of computed
    n_total_tokens: int


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token and the natural logarithm of its probability, over the whole vocabulary, before sampling changes it."""

    token: int
    text: str  # U+FFFD where the token is part of a character
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token, and the likeliest ones in its place, best first."""

    chosen: TokenChance
    likeliest: tuple[TokenChance, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Newly generated text: whole UTF-8 characters only, never part of a stop string."""

    request_id: str
    text: str
    n_tokens: int  # tokens generated so far
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens since the last delta, where they were asked for


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request."""

    request_id: str
    reason: FinishReason
    usage: Usage
    timing: Timing
    error: str | None = None
    stop_text: str | None = None  # which of the request's stop strings ended it
    thinking_end: ThinkingEnd | None = None  # what closed the think block; None: it was not closed, or there was none


GenerationEvent = PromptProgress | TextDelta | Finished


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an opened model says of itself."""

    path: str
    name: str  # general.name, or the file's stem
    architecture: str
    n_weights: int
    file_bytes: int
    n_layers: int
    n_experts: int  # 0 for dense models
    n_experts_used: int
    n_vocab: int
    n_ctx_train: int
    n_ctx: int  # as opened: tokens that each sequence may hold
    chat_template: str | None
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)  # from general.sampling.* in the file
    bos_token: str = ""  # how the vocabulary writes its begin and end tokens, for chat templates; "": it has none
    eos_token: str = ""
