"""A line as requests to an engine, and their replies as the answer to it. Knows bodies; no threads, no files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenctl.core import GenerationRequest, Message
from qwenctl.errors import InvalidRequest
from qwenctl.services.api.answer_head import AnswerHead, fingerprint_of
from qwenctl.services.api.chat_answer import chat_answer
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.choice_reader import ChoiceReader, PlainReader
from qwenctl.services.api.completion_answer import TextChoice, completion_answer
from qwenctl.services.api.completion_body import CompletionBody
from qwenctl.services.api.completion_request import completion_request
from qwenctl.services.batch_job import BatchJob
from qwenctl.services.batch_record import record_name
from qwenctl.services.batch_request import BatchRequest
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.structured.answer_validation import validate_answer

_SEED_STEP = 0x9E37_79B1  # 2^32 / golden ratio: seeds of attempts lie far apart
_N_SEEDS = 0xFFFF_FFFF

ReplyReader = ChoiceReader | PlainReader


@dataclass(frozen=True, slots=True)
class LineWork:
    """What an engine is to do for a line."""

    requests: tuple[GenerationRequest, ...]
    readers: tuple[ReplyReader, ...]  # of the reply to each request
    n_prompts: int  # the same number of requests in a row has the same prompt
    answer: Callable[[], Mapping[str, Any]]  # once all replies have ended
    ours: Mapping[str, Any]  # for the record

    @property
    def n_prompt_tokens(self) -> int:
        """Of all prompts; one that is answered several times counts once."""
        return sum(len(request.prompt_tokens) for request in self.requests[:: len(self.requests) // self.n_prompts])

    @property
    def n_most_tokens(self) -> int:
        """The most that it can take, prompts and replies."""
        return self.n_prompt_tokens + sum(request.max_tokens or 0 for request in self.requests)


def chat_work(model: ChatModel, job: BatchJob, body: ChatBody, options: ChatOptions, system: str | None) -> LineWork:
    """Return the work of a chat completion.

    Args:
        model: that is to answer.
        job: the line.
        body: what it says.
        options: where it does not.
        system: prompt for a body without one.

    Raises:
        InvalidRequest, PromptTooLong, TemplateFailed: as `ChatModel.prepare`.
    """
    messages = body.messages
    if system and not any(message.role == "system" for message in messages):
        messages = (Message("system", system), *messages)
    if body.offered_tools:
        raise InvalidRequest("'tools' are not supported yet")
    prepared = model.prepare(messages, body.options(options), request_id=_name_of(job))
    readers = tuple(
        ChoiceReader(
            starts_inside=prepared.starts_inside, parser=None, wants_logprobs=prepared.request.n_logprobs is not None
        )
        for _ in range(body.n)
    )

    def answer() -> Mapping[str, Any]:
        return chat_answer(_head("chatcmpl", model, job), [reader.choice() for reader in readers])

    notes = {"notes": list(prepared.notes)} if prepared.notes else {}
    requests = tuple(_variants(prepared.request, body.n, job.n_attempts))
    return LineWork(requests, readers, 1, answer, {"thinking": prepared.thinking, **notes})


def completion_work(model: ChatModel, job: BatchJob, body: CompletionBody, defaults: ChatOptions) -> LineWork:
    """Return the work of a completion of plain text.

    Raises:
        InvalidRequest, PromptTooLong: a prompt that cannot be gone on with.
    """
    options = body.options(defaults)
    requests: list[GenerationRequest] = []
    for index, prompt in enumerate(body.prompts):
        first = completion_request(model, prompt, options, f"{_name_of(job)}-{index}")
        requests += _variants(first, body.n, job.n_attempts)
    readers = tuple(PlainReader(wants_logprobs=body.n_logprobs is not None) for _ in requests)

    def answer() -> Mapping[str, Any]:
        choices = [TextChoice(reader.done, reader.logprobs) for reader in readers if reader.done]
        return completion_answer(_head("cmpl", model, job), choices, body.n)

    return LineWork(tuple(requests), readers, len(body.prompts), answer, {})


def schema_faults(request: BatchRequest, options: ChatOptions, answer: Mapping[str, Any]) -> Sequence[str]:
    """Return why an answer is not of the form that was asked for: grammars cannot say all, and answers may be cut off.

    Args:
        request: the line.
        options: for what it does not say.
        answer: chat completion, ours or a server's.
    """
    parsed = request.parsed
    schema = parsed.options(options).answer_schema if isinstance(parsed, ChatBody) else None
    if schema is None:
        return ()
    faults: list[str] = []
    for choice in answer["choices"]:
        message = choice["message"]
        if not message.get("tool_calls"):
            faults += validate_answer(schema, message.get("content") or "")
    return faults


def other_seed(seed: int, step: int) -> int:
    """Return the seed of attempt or reply number `step`; the first one's is `seed`."""
    return (seed + step * _SEED_STEP) % _N_SEEDS


def _variants(first: GenerationRequest, n_replies: int, n_attempts: int) -> list[GenerationRequest]:
    """Return a request for each reply that is wanted, every reply of every attempt with a seed of its own."""
    requests = []
    for number in range(n_replies):
        seed = first.sampling.seed
        if seed is not None:
            seed = other_seed(seed, n_attempts * n_replies + number)
        sampling = replace(first.sampling, seed=seed)
        requests.append(replace(first, request_id=f"{first.request_id}.{number}", sampling=sampling))
    return requests


def _name_of(job: BatchJob) -> str:
    return f"line-{job.line_number}-{job.n_attempts}"


def _head(kind: str, model: ChatModel, job: BatchJob) -> AnswerHead:
    info = model.engine.info
    return AnswerHead(f"{kind}-{record_name(job.key)}", info.name, int(time.time()), fingerprint_of(info))
