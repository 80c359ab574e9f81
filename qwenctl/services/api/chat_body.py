"""The body of a chat completion, OpenAI's with the fields that Qwen's, vLLM's and llama.cpp's servers added.

What can be ignored without another answer coming out (`user`, `metadata`, …) is ignored. What cannot is refused by
name, and in a batch, where nobody looks, so is whatever we do not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from qwenctl.core import Message, TokenBias
from qwenctl.services.api import sampling_fields, thinking_fields
from qwenctl.services.api.answer_format import read_answer_schema
from qwenctl.services.api.body_fields import (
    BadRequest,
    read_flag,
    read_mapping,
    read_object,
    read_text,
    read_texts,
    read_whole_number,
    shown,
)
from qwenctl.services.api.chat_messages import read_messages
from qwenctl.services.api.chat_tools import read_tool_choice, read_tools
from qwenctl.services.api.sampling_fields import read_biases, read_sampling
from qwenctl.services.api.thinking_fields import read_thinking
from qwenctl.services.generation import ChatOptions
from qwenctl.services.tools.tool_choice import ToolChoice

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_LOGPROBS = 20

# Where the answer goes and who asks: nothing that changes it.
HARMLESS = frozenset(
    {
        "metadata",
        "model",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
        "cache_prompt",
    }
)
# field → values that ask for nothing special; any other would be ignored at the cost of another answer.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "structured_outputs": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
_OTHERS = frozenset(
    {
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "n",
        "parallel_tool_calls",
        "response_format",
        "return_progress",
        "stop",
        "stream",
        "stream_options",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
KNOWN = _OTHERS | HARMLESS | set(UNSUPPORTED) | sampling_fields.FIELDS | thinking_fields.FIELDS


@dataclass(frozen=True, slots=True)
class ChatBody:
    """What a chat completion was asked with. None and missing keys: the model's own default."""

    messages: tuple[Message, ...]
    model: str | None = None
    thinking: bool | None = None
    think_budget: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    answer_schema: Mapping[str, Any] | None = None  # JSON schema that the answer must satisfy
    n_logprobs: int | None = None
    logit_bias: tuple[TokenBias, ...] = ()
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1  # answers
    stream: bool = False
    include_usage: bool = False  # in a last chunk of the stream
    reports_progress: bool = False  # chunks while the prompt is computed, as llama.cpp's server has them

    @property
    def offered_tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that the model is to know of."""
        return () if self.tool_choice.mode == "none" else self.tools

    def options(self, defaults: ChatOptions) -> ChatOptions:
        """Return `defaults` with what this body says in their place."""
        return replace(
            defaults,
            thinking=defaults.thinking if self.thinking is None else self.thinking,
            sampling={**defaults.sampling, **self.sampling},
            max_tokens=self.max_tokens or defaults.max_tokens,
            stop=self.stop or defaults.stop,
            tools=self.offered_tools or defaults.tools,
            think_budget=defaults.think_budget if self.think_budget is None else self.think_budget,
            n_logprobs=self.n_logprobs,
            logit_bias=self.logit_bias or defaults.logit_bias,
            reports_progress=self.reports_progress,
            tool_choice=self.tool_choice,
            answer_schema=defaults.answer_schema if self.answer_schema is None else self.answer_schema,
            template_variables={**defaults.template_variables, **self.template_variables},
        )


def parse_chat_body(value: Any, *, strict: bool = False) -> ChatBody:
    """Return what `value`, parsed JSON, asks for.

    Args:
        strict: refuse every field that is not known.

    Raises:
        BadRequest: a field is missing, of another kind, out of range, or asks for something that is not supported.
    """
    body = read_fields(value, KNOWN, UNSUPPORTED, strict=strict)
    wish, tools = read_thinking(body), read_tools(body)
    answer_schema = read_answer_schema(body)
    sampling = read_sampling(body)
    if answer_schema is not None and "grammar" in sampling:
        raise BadRequest("'grammar' and 'response_format' exclude each other", "grammar")
    return ChatBody(
        messages=read_messages(body),
        model=read_text(body, "model"),
        thinking=wish.thinking,
        think_budget=wish.budget,
        sampling=sampling,
        max_tokens=read_max_tokens(body),
        stop=read_texts(body, "stop", MOST_STOPS),
        tools=tools,
        tool_choice=read_tool_choice(body, tools),
        answer_schema=answer_schema,
        n_logprobs=_n_logprobs(body),
        logit_bias=read_biases(body),
        template_variables=wish.template_variables,
        n=read_whole_number(body, "n", 1, MOST_CHOICES) or 1,
        stream=read_flag(body, "stream") or False,
        include_usage=wants_usage(body),
        reports_progress=read_flag(body, "return_progress") or False,
    )


def read_fields(
    value: Any, known: Set[str], unsupported: Mapping[str, tuple[Any, ...]], *, strict: bool
) -> Mapping[str, Any]:
    """Return `value` if it is an object that asks for nothing in `unsupported`; `strict`: nor for what is not `known`.

    Raises:
        BadRequest: it is not.
    """
    body = read_object(value)
    unknown = sorted(set(body) - known)
    if strict and unknown:
        raise BadRequest(f"unknown field {shown(unknown[0])} in 'body'", unknown[0])
    refuse_unsupported(body, unsupported)
    return body


def refuse_unsupported(body: Mapping[str, Any], unsupported: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse the fields of `unsupported` that ask for something.

    Raises:
        BadRequest: names the first.
    """
    for name, harmless in unsupported.items():
        value = body.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            raise BadRequest(f"'{name}' is not supported", name)


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the limit of the reply, under its new name or its old one."""
    given = read_whole_number(body, "max_completion_tokens", 1)
    return read_whole_number(body, "max_tokens", 1) if given is None else given


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Return whether a stream is to end with a chunk that counts tokens."""
    return read_flag(read_mapping(body, "stream_options"), "include_usage") or False


def _n_logprobs(body: Mapping[str, Any]) -> int | None:
    n_likeliest = read_whole_number(body, "top_logprobs", 0, MOST_LOGPROBS)
    if read_flag(body, "logprobs"):
        return n_likeliest or 0
    if n_likeliest:
        raise BadRequest("'top_logprobs' needs 'logprobs': true", "top_logprobs")
    return None
