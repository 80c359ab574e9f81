"""A line as requests to an engine, and their replies as the answer to it. Knows bodies; no threads, no files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from qwenctl.core import Finished, GenerationEvent, GenerationRequest, Message, TextDelta, TokenLogprob
from qwenctl.errors import InvalidRequest, PromptTooLong
from qwenctl.services.api.answer_head import AnswerHead, fingerprint_of
from qwenctl.services.api.chat_answer import ChatChoice, chat_answer
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.completion_answer import TextChoice, completion_answer
from qwenctl.services.api.completion_body import CompletionBody, Prompt
from qwenctl.services.batch_job import BatchJob
from qwenctl.services.batch_record import record_name
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import AnswerDelta, ReplyAssembler, ReplyDone
from qwenctl.services.sampling_defaults import choose_sampling
from qwenctl.services.structured.answer_validation import validate_answer

_SEED_STEP = 0x9E37_79B1  # 2^32 / golden ratio: seeds of attempts lie far apart
_N_SEEDS = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class LineReply:
    """The finished reply to one of a line's requests."""

    done: ReplyDone
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class LineWork:
    """What an engine is to do for a line."""

    requests: tuple[GenerationRequest, ...]
    n_prompts: int  # the same number of requests in a row has the same prompt
    starts_inside: bool | None  # the prompt has opened a think block; None: plain text, without reasoning
    answer: Callable[[Sequence[LineReply]], Mapping[str, Any]]  # of all requests, in their order
    faults: Callable[[Sequence[LineReply]], Sequence[str]]  # why the answer is not what was asked for
    ours: Mapping[str, Any]  # for the record

    @property
    def n_prompt_tokens(self) -> int:
        """Of all prompts; one that is answered several times counts once."""
        return sum(len(request.prompt_tokens) for request in self.requests[:: len(self.requests) // self.n_prompts])

    @property
    def n_most_tokens(self) -> int:
        """The most that it can take, prompts and replies."""
        return self.n_prompt_tokens + sum(request.max_tokens or 0 for request in self.requests)


class ReplyCollector:
    """Collects the events of one request.

    Args:
        starts_inside: as in `LineWork`.
    """

    def __init__(self, *, starts_inside: bool | None) -> None:
        self._assembler = None if starts_inside is None else ReplyAssembler(starts_inside=starts_inside)
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self.n_tokens = 0
        self.reply: LineReply | None = None

    def take(self, event: GenerationEvent) -> int:
        """Take an event; return the tokens that it adds."""
        n_before = self.n_tokens
        if isinstance(event, TextDelta):
            self.n_tokens = event.n_tokens
        elif isinstance(event, Finished):
            self.n_tokens = event.usage.n_generated_tokens
        if self._assembler is None:
            self._take_plain(event)
        else:
            for item in self._assembler.take(event):
                if isinstance(item, AnswerDelta):
                    self._logprobs += item.logprobs
                elif isinstance(item, ReplyDone):
                    self.reply = LineReply(item, tuple(self._logprobs))
        return self.n_tokens - n_before

    def _take_plain(self, event: GenerationEvent) -> None:
        if isinstance(event, TextDelta):
            self._texts.append(event.text)
            self._logprobs += event.logprobs
        elif isinstance(event, Finished):
            text, logprobs = "".join(self._texts), tuple(self._logprobs)
            done = ReplyDone(event.reason, event.usage, event.timing, 0, None, text, closed=True, error=event.error)
            self.reply = LineReply(done, logprobs)


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
    options = body.options(options)
    prepared = model.prepare(messages, options, request_id=_name_of(job))
    wants_logprobs = prepared.request.n_logprobs is not None

    def answer(replies: Sequence[LineReply]) -> Mapping[str, Any]:
        choices = [
            ChatChoice(one.done, one.done.answer, (), one.logprobs if wants_logprobs else None) for one in replies
        ]
        return chat_answer(_head("chatcmpl", model, job), choices)

    notes = {"notes": list(prepared.notes)} if prepared.notes else {}
    return LineWork(
        requests=tuple(_variants(prepared.request, body.n, job.n_attempts)),
        n_prompts=1,
        starts_inside=prepared.starts_inside,
        answer=answer,
        faults=partial(_schema_faults, options.answer_schema),
        ours={"thinking": prepared.thinking, **notes},
    )


def _schema_faults(schema: Any | None, replies: Sequence[LineReply]) -> Sequence[str]:
    """What is wrong with the answers: a grammar cannot say all that a schema can, and an answer may be cut off."""
    if schema is None:
        return ()
    return [fault for reply in replies for fault in validate_answer(schema, reply.done.answer)]


def completion_work(model: ChatModel, job: BatchJob, body: CompletionBody, defaults: ChatOptions) -> LineWork:
    """Return the work of a completion of plain text.

    Raises:
        InvalidRequest, PromptTooLong: a prompt that cannot be gone on with.
    """
    options, info = body.options(defaults), model.engine.info
    sampling = choose_sampling(
        info.architecture,
        thinking=False,
        usual_mode=True,
        from_file=info.sampling_defaults,
        options=options.sampling,
    )
    requests: list[GenerationRequest] = []
    for index, prompt in enumerate(body.prompts):
        tokens = prompt_tokens(model, prompt)
        if len(tokens) >= info.n_ctx:
            raise PromptTooLong(len(tokens), info.n_ctx)
        first = GenerationRequest(
            f"{_name_of(job)}-{index}",
            tokens,
            sampling.params,
            min(options.max_tokens or body.max_tokens, info.n_ctx - len(tokens)),
            options.stop,
            n_logprobs=options.n_logprobs,
            logit_bias=options.logit_bias,
        )
        requests += _variants(first, body.n, job.n_attempts)

    def answer(replies: Sequence[LineReply]) -> Mapping[str, Any]:
        choices = [TextChoice(one.done, one.logprobs if body.n_logprobs is not None else None) for one in replies]
        return completion_answer(_head("cmpl", model, job), choices, body.n)

    return LineWork(tuple(requests), len(body.prompts), None, answer, lambda _: (), {})


def prompt_tokens(model: ChatModel, prompt: Prompt, *, parse_special: bool = True) -> tuple[int, ...]:
    """Return the tokens of a prompt that is text, or tokens already."""
    if not isinstance(prompt, str):
        return prompt
    return model.engine.tokenize(prompt, parse_special=parse_special, add_special=True)


def _variants(first: GenerationRequest, n_replies: int, n_attempts: int) -> list[GenerationRequest]:
    """Return a request for each reply that is wanted, every reply of every attempt with a seed of its own."""
    requests = []
    for number in range(n_replies):
        seed = first.sampling.seed
        if seed is not None:
            seed = (seed + (n_attempts * n_replies + number) * _SEED_STEP) % _N_SEEDS
        sampling = replace(first.sampling, seed=seed)
        requests.append(replace(first, request_id=f"{first.request_id}.{number}", sampling=sampling))
    return requests


def _name_of(job: BatchJob) -> str:
    return f"line-{job.line_number}-{job.n_attempts}"


def _head(kind: str, model: ChatModel, job: BatchJob) -> AnswerHead:
    info = model.engine.info
    return AnswerHead(f"{kind}-{record_name(job.key)}", info.name, int(time.time()), fingerprint_of(info))
