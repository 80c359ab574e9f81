"""From a body to requests for the engine, and to readers of what comes back. For the server and for batches alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwenctl.core import N_SEEDS, GenerationRequest
from qwenctl.services.api.body_fields import BadRequest
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.choice_reader import ChoiceReader
from qwenctl.services.api.completion_body import CompletionBody
from qwenctl.services.api.completion_request import completion_request
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt
from qwenctl.services.tools.tool_call import ToolFormat
from qwenctl.services.tools.tool_call_parser import ToolCallParser


@dataclass(frozen=True, slots=True)
class ChatRequests:
    """The replies to one chat body, not yet submitted."""

    prepared: PreparedPrompt  # the prompt that they share
    requests: tuple[GenerationRequest, ...]  # one a choice
    tool_format: ToolFormat | None  # how the model writes calls; None: it has none to make
    tools: tuple[Mapping[str, Any], ...]
    parallel_calls: bool
    wants_logprobs: bool

    def readers(self) -> list[ChoiceReader]:
        """Return a reader for each request."""
        return [
            ChoiceReader(
                starts_inside=self.prepared.starts_inside,
                parser=ToolCallParser(self.tool_format, self.tools, streams=True) if self.tool_format else None,
                parallel_calls=self.parallel_calls,
                wants_logprobs=self.wants_logprobs,
            )
            for _ in self.requests
        ]


def chat_requests(model: ChatModel, body: ChatBody, defaults: ChatOptions, name: str) -> ChatRequests:
    """Return the requests that `body` asks for, named `name`-0, `name`-1 …

    May take a while for long prompts, and may be called on any thread.

    Raises:
        InvalidRequest: the model or its template cannot do what is asked.
        TemplateFailed, PromptTooLong: as `ChatModel.prepare`.
    """
    tools, able = body.offered_tools, model.capabilities
    if tools and not able.tools:
        raise BadRequest("the model's chat template has no place for tools", "tools")
    prepared = model.prepare(body.messages, body.options(defaults), request_id=name)
    return ChatRequests(
        prepared,
        _copies(prepared.request, body.n),
        able.tool_format if tools else None,
        tools,
        body.tool_choice.parallel,
        body.n_logprobs is not None,
    )


def completion_requests(
    model: ChatModel, body: CompletionBody, defaults: ChatOptions, name: str
) -> tuple[GenerationRequest, ...]:
    """Return the requests that `body` asks for, `body.n` of the first prompt first.

    Raises:
        InvalidRequest, PromptTooLong: as `completion_request`.
    """
    options = body.options(defaults)
    return tuple(
        copy
        for number, prompt in enumerate(body.prompts)
        for copy in _copies(completion_request(model, prompt, options, f"{name}-{number}"), body.n)
    )


def _copies(request: GenerationRequest, n: int) -> tuple[GenerationRequest, ...]:
    """`request` `n` times, under different names and with different seeds."""
    return tuple(
        replace(request, request_id=f"{request.request_id}-{index}", sampling=replace(request.sampling, seed=seed))
        for index in range(n)
        for seed in (None if request.sampling.seed is None else (request.sampling.seed + index) % N_SEEDS,)
    )
