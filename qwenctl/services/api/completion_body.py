"""The body of OpenAI's older completion: plain text that the model goes on with, without a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwenctl.core import TokenBias
from qwenctl.services.api import sampling_fields
from qwenctl.services.api.body_fields import (
    BadRequest,
    is_unicode,
    read_flag,
    read_text,
    read_texts,
    read_whole_number,
)
from qwenctl.services.api.chat_body import (
    HARMLESS,
    MOST_CHOICES,
    MOST_LOGPROBS,
    MOST_STOPS,
    UNSUPPORTED,
    read_fields,
    read_max_tokens,
    wants_usage,
)
from qwenctl.services.api.sampling_fields import read_biases, read_sampling
from qwenctl.services.generation import ChatOptions

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MOST_PROMPTS = 64

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **{name: values for name, values in UNSUPPORTED.items() if name != "best_of"},
    "echo": (False,),
    "suffix": ("",),
}
_OTHERS = frozenset({"best_of", "logprobs", "max_tokens", "n", "prompt", "stop", "stream", "stream_options"})
KNOWN = _OTHERS | HARMLESS | set(_UNSUPPORTED) | sampling_fields.FIELDS

Prompt = str | tuple[int, ...]  # text, or tokens


@dataclass(frozen=True, slots=True)
class CompletionBody:
    """What a completion was asked with."""

    prompts: tuple[Prompt, ...]
    model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    n_logprobs: int | None = None
    logit_bias: tuple[TokenBias, ...] = ()
    n: int = 1  # texts for each prompt
    stream: bool = False
    include_usage: bool = False

    def options(self, defaults: ChatOptions) -> ChatOptions:
        """Return `defaults` with what this body says in their place; there is no thinking in plain text."""
        return replace(
            defaults,
            thinking=None,
            sampling={**defaults.sampling, **self.sampling},
            max_tokens=self.max_tokens,
            stop=self.stop or defaults.stop,
            tools=(),
            think_budget=None,
            n_logprobs=self.n_logprobs,
            logit_bias=self.logit_bias or defaults.logit_bias,
        )


def parse_completion_body(value: Any, *, strict: bool = False) -> CompletionBody:
    """Return what `value`, parsed JSON, asks for.

    Raises:
        BadRequest: as `parse_chat_body`.
    """
    body = read_fields(value, KNOWN, _UNSUPPORTED, strict=strict)
    n = read_whole_number(body, "n", 1, MOST_CHOICES) or 1
    if read_whole_number(body, "best_of", 1, MOST_CHOICES) not in (None, n):
        raise BadRequest("'best_of' is not supported", "best_of")
    return CompletionBody(
        prompts=read_prompts(body, "prompt"),
        model=read_text(body, "model"),
        sampling=read_sampling(body),
        max_tokens=read_max_tokens(body) or DEFAULT_MAX_TOKENS,
        stop=read_texts(body, "stop", MOST_STOPS),
        n_logprobs=read_whole_number(body, "logprobs", 0, MOST_LOGPROBS),
        logit_bias=read_biases(body),
        n=n,
        stream=read_flag(body, "stream") or False,
        include_usage=wants_usage(body),
    )


def read_prompts(body: Mapping[str, Any], name: str, most: int = MOST_PROMPTS) -> tuple[Prompt, ...]:
    """Return text, a list of texts, tokens, or a list of those, as a tuple of at most `most`.

    Raises:
        BadRequest: something else, or nothing.
    """
    value = body.get(name)
    items = [value] if isinstance(value, str) or _is_tokens(value) else value
    if not isinstance(items, list) or not items:
        raise BadRequest(f"'{name}' must be text, tokens, or a list of these", name)
    if len(items) > most:
        raise BadRequest(f"'{name}' must not hold more than {most}", name)
    for item in items:
        if not _is_tokens(item) and not (isinstance(item, str) and item and is_unicode(item)):
            raise BadRequest(f"'{name}' must be text, tokens, or a list of these, and none of them empty", name)
    return tuple(item if isinstance(item, str) else tuple(item) for item in items)


def _is_tokens(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 1 << 31 for token in value)
