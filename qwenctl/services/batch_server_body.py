"""The body that a server is sent for a line: the line's own, with the batch's options where it says nothing. Pure.

Fields that only some servers know are sent only when somebody asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.completion_body import CompletionBody
from qwenctl.services.api.sampling_fields import NUMBERS
from qwenctl.services.batch_job import BatchJob
from qwenctl.services.batch_work import other_seed
from qwenctl.services.generation import ChatOptions

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty")
_TOKENS_A_MESSAGE = 32  # a template's, and more than enough
_UNLIMITED = 1 << 60


def server_body(job: BatchJob, model: str, options: ChatOptions, system: str | None) -> dict[str, Any]:
    """Return the body.

    Args:
        job: the line, and how often it was tried.
        model: as the server names it.
        options: for what the line does not say.
        system: prompt for a line without one.
    """
    request = job.request
    body: dict[str, Any] = {**request.body, "model": model}
    if isinstance(request.parsed, ChatBody):
        _add_chat_options(body, options, system)
    if isinstance(request.parsed, ChatBody | CompletionBody):
        _add_sampling(body, options)
        if options.stop:
            body.setdefault("stop", list(options.stop))
        if isinstance(body.get("seed"), int):
            body["seed"] = other_seed(body["seed"], job.n_attempts)
    return body


def most_tokens(job: BatchJob, body: Mapping[str, Any]) -> int:
    """Return a number of tokens that an attempt cannot exceed: a token has at least a byte."""
    parsed = job.request.parsed
    if isinstance(parsed, ChatBody):
        n_prompt = job.n_line_bytes + sum(_bytes_of(one) + _TOKENS_A_MESSAGE for one in body["messages"])
        n_most = body.get("max_completion_tokens") or body.get("max_tokens")
        return n_prompt + parsed.n * n_most if n_most else _UNLIMITED
    if isinstance(parsed, CompletionBody):
        return job.n_line_bytes + len(parsed.prompts) * parsed.n * parsed.max_tokens
    return job.n_line_bytes


def _add_chat_options(body: dict[str, Any], options: ChatOptions, system: str | None) -> None:
    messages = body["messages"]
    if system and not any(message.get("role") in ("system", "developer") for message in messages):
        body["messages"] = [{"role": "system", "content": system}, *messages]
    if options.max_tokens and not (body.get("max_tokens") or body.get("max_completion_tokens")):
        body["max_tokens"] = options.max_tokens
    variables = dict(options.template_variables)
    if options.thinking is not None and body.get("enable_thinking") is None:
        variables["enable_thinking"] = options.thinking
    if variables:
        body["chat_template_kwargs"] = {**variables, **(body.get("chat_template_kwargs") or {})}
    if options.think_budget is not None:
        body.setdefault("thinking_budget", options.think_budget)
    if options.answer_schema is not None and not body.get("response_format"):
        form = {"name": "answer", "schema": options.answer_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}


def _add_sampling(body: dict[str, Any], options: ChatOptions) -> None:
    given = {NUMBERS.get(name, name) for name, value in body.items() if value is not None}
    for name in (*_SAMPLING, "seed", "grammar"):
        if name in options.sampling and name not in given:
            body[name] = options.sampling[name]


def _bytes_of(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    return len(content.encode()) if isinstance(content, str) else 0
