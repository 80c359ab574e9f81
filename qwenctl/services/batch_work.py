"""A line as requests to an engine, and their replies as the answer to it. Knows bodies; no threads, no files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenctl.core import GenerationRequest, Message
from qwenctl.services.api.answer_head import AnswerHead, fingerprint_of
from qwenctl.services.api.chat_answer import chat_answer
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.chat_requests import chat_requests, completion_requests
from qwenctl.services.api.choice_reader import ChoiceReader, PlainReader
from qwenctl.services.api.completion_answer import TextChoice, completion_answer
from qwenctl.services.api.completion_body import CompletionBody
from qwenctl.services.api.embedding_body import EmbeddingBody, embedding_answer
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
    def n_replies(self) -> int:
        """How many replies it brings."""
        return len(self.requests)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(request.prompt_tokens) for request in self.requests)

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
    chat = chat_requests(model, with_system(body, system), options, _name_of(job))
    readers = tuple(chat.readers())

    def answer() -> Mapping[str, Any]:
        return chat_answer(_head("chatcmpl", model, job), [reader.choice() for reader in readers])

    prepared = chat.prepared
    notes = {"notes": list(prepared.notes)} if prepared.notes else {}
    return LineWork(_attempt(chat.requests, job), readers, 1, answer, {"thinking": prepared.thinking, **notes})


def completion_work(model: ChatModel, job: BatchJob, body: CompletionBody, defaults: ChatOptions) -> LineWork:
    """Return the work of a completion of plain text.

    Raises:
        InvalidRequest, PromptTooLong: a prompt that cannot be gone on with.
    """
    requests = completion_requests(model, body, defaults, _name_of(job))
    readers = tuple(PlainReader(wants_logprobs=body.n_logprobs is not None) for _ in requests)

    def answer() -> Mapping[str, Any]:
        choices = [TextChoice(reader.done, reader.logprobs) for reader in readers if reader.done]
        return completion_answer(_head("cmpl", model, job), choices, body.n)

    return LineWork(_attempt(requests, job), readers, len(body.prompts), answer, {})


def with_system(body: ChatBody, system: str | None) -> ChatBody:
    """Return `body` with a system prompt, its own or this one."""
    if not system or any(message.role == "system" for message in body.messages):
        return body
    return replace(body, messages=(Message("system", system), *body.messages))


@dataclass(frozen=True, slots=True)
class EmbeddingWork:
    """The texts of a line, each of which gets a vector."""

    token_lists: tuple[tuple[int, ...], ...]
    model: str
    as_base64: bool

    @property
    def n_replies(self) -> int:
        """Nothing is generated."""
        return 0

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.token_lists))

    @property
    def n_prompt_tokens(self) -> int:
        """Of all texts."""
        return sum(map(len, self.token_lists))

    @property
    def n_most_tokens(self) -> int:
        """All that it takes."""
        return self.n_prompt_tokens

    def answer(self, vectors: Sequence[Sequence[float]]) -> Mapping[str, Any]:
        """Return the answer, given a vector for each text."""
        return embedding_answer(vectors, self.n_most_tokens, model=self.model, as_base64=self.as_base64)


def embedding_work(model: ChatModel, body: EmbeddingBody) -> EmbeddingWork:
    """Return the work of embeddings."""
    tokenize = model.engine.tokenize
    lists = tuple(
        tokenize(text, parse_special=False, add_special=True) if isinstance(text, str) else text for text in body.inputs
    )
    return EmbeddingWork(lists, model.engine.info.name, body.as_base64)


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
        calls = message.get("tool_calls") or ()
        faults += ["a call broke off" for call in calls if not _is_whole(call)]
        if not calls:
            faults += validate_answer(schema, message.get("content") or "")
    return faults


def _is_whole(call: Mapping[str, Any]) -> bool:
    arguments = call.get("function", {}).get("arguments")
    try:
        return not isinstance(arguments, str) or not arguments or isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def other_seed(seed: int, n_attempts: int) -> int:
    """Return the seed of the attempt after `n_attempts`; the first one's is `seed`."""
    return (seed + n_attempts * _SEED_STEP) % _N_SEEDS


def _attempt(requests: Sequence[GenerationRequest], job: BatchJob) -> tuple[GenerationRequest, ...]:
    """Return the requests with the seeds of this attempt; a request without one gets a fresh one in any case."""
    if not job.n_attempts:
        return tuple(requests)
    return tuple(
        replace(one, sampling=replace(one.sampling, seed=other_seed(one.sampling.seed, job.n_attempts)))
        if one.sampling.seed is not None
        else one
        for one in requests
    )


def _name_of(job: BatchJob) -> str:
    return f"line-{job.line_number}-{job.n_attempts}"


def _head(kind: str, model: ChatModel, job: BatchJob) -> AnswerHead:
    info = model.engine.info
    return AnswerHead(f"{kind}-{record_name(job.key)}", info.name, int(time.time()), fingerprint_of(info))
