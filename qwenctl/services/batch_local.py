"""The worker that answers lines with a model opened here: its engine is stepped by a runner's thread meanwhile.

While the engine computes, the batch's thread prepares further lines (template, tokens, sampler) and leaves them with
the engine, so that a sequence that ends makes room for one that is ready.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, Message, PromptProgress, TextDelta
from qwenctl.errors import InvalidRequest, PromptTooLong, QwenctlError, TemplateFailed
from qwenctl.services.batch_job import (
    Answered,
    BatchJob,
    BatchWorker,
    Generated,
    LineRefused,
    Lost,
    Outcome,
    Refused,
    Returned,
    Stumbled,
    TokenCounts,
)
from qwenctl.services.batch_mailbox import Mailbox
from qwenctl.services.batch_record import answer_body
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt
from qwenctl.services.reply import ReplyAssembler, ReplyDone
from qwenctl.services.serving.engine_runner import EngineRunner

_SEED_STEP = 0x9E37_79B1  # 2^32 / golden ratio: seeds of attempts lie far apart
_N_SEEDS = 0xFFFF_FFFF


@dataclass(slots=True)
class _Choice:
    """One of the answers to a line, in the making."""

    assembler: ReplyAssembler
    n_tokens: int = 0
    done: ReplyDone | None = None


@dataclass(slots=True)
class _Running:
    """A line that the engine works on: a request for each answer that it wants."""

    job: BatchJob
    prepared: PreparedPrompt
    choices: dict[str, _Choice]  # by name of the request


class LocalWorker(BatchWorker):
    """Answers with `model`, whose engine nobody else uses meanwhile; it stays open.

    Args:
        model: the model.
        parallel: sequences at the same time.
        options: for lines that do not say otherwise.
        system: for lines without a system prompt.
        mailbox: where news go.
    """

    def __init__(
        self, model: ChatModel, parallel: int, options: ChatOptions, system: str | None, mailbox: Mailbox
    ) -> None:
        self.name = model.engine.info.name
        self._model = model
        self._n_most = 2 * parallel  # as many again wait, prepared
        self._options, self._system = options, system
        self._mailbox = mailbox
        self._prepared: dict[int, PreparedPrompt] = {}  # by number of line
        self._running: dict[str, _Running] = {}  # by name of request
        self._runner = EngineRunner(model.engine, parallel)
        self._is_lost = False

    @property
    def n_wanted(self) -> int:
        """Sequences that are free, and as many again."""
        return 0 if self._is_lost else self._n_most - len(self._running)

    def prepare(self, job: BatchJob) -> int:
        """Render and tokenize."""
        messages = job.request.messages
        if self._system and not any(message.role == "system" for message in messages):
            messages = (Message("system", self._system), *messages)
        options = job.request.options(self._options)
        try:
            prepared = self._model.prepare(messages, options, request_id=f"line-{job.line_number}-{job.n_attempts}")
        except (InvalidRequest, PromptTooLong, TemplateFailed) as error:
            raise LineRefused(_code(error), error.message) from error
        self._prepared[job.line_number] = prepared
        request = prepared.request
        return len(request.prompt_tokens) + job.request.n_answers * (request.max_tokens or 0)

    def start(self, job: BatchJob) -> None:
        """Leave it with the engine."""
        prepared = self._prepared.pop(job.line_number)
        requests = _requests(prepared.request, job)
        choices = {one.request_id: _Choice(ReplyAssembler(starts_inside=prepared.starts_inside)) for one in requests}
        self._running |= dict.fromkeys(choices, _Running(job, prepared, choices))
        for request in requests:
            try:
                self._runner.submit(request, self._hear)
            except (InvalidRequest, PromptTooLong) as error:
                self._mailbox.put(self, Refused(job, _code(error), error.message))
                return
            except QwenctlError as error:
                self._mailbox.put(self, Lost(error))
                return

    def digest(self, item: Any) -> Sequence[Outcome]:
        """Take the events of a step."""
        if isinstance(item, Lost):
            return self._lose(item)
        if isinstance(item, Refused):
            self._drop(item.job)
            return [item]
        return [outcome for event in item for outcome in self._take(event)]

    def stop(self) -> None:
        """Cancel what runs."""
        self._runner.stop()

    def _hear(self, events: Sequence[GenerationEvent]) -> None:
        """On the runner's thread: an end is worth waking for, a few tokens are not."""
        self._mailbox.put(self, events, wakes=isinstance(events[-1], Finished))

    def _take(self, event: GenerationEvent) -> Sequence[Outcome]:
        running = self._running.get(event.request_id)
        if running is None or isinstance(event, PromptProgress):
            return ()
        choice = running.choices[event.request_id]
        n_tokens = event.n_tokens if isinstance(event, TextDelta) else event.usage.n_generated_tokens
        n_new, choice.n_tokens = n_tokens - choice.n_tokens, n_tokens
        for item in choice.assembler.take(event):
            if isinstance(item, ReplyDone):
                choice.done = item
        outcomes: list[Outcome] = [Generated(running.job, n_new)]
        if choice.done:
            del self._running[event.request_id]
            outcomes += self._end(running, choice.done)
        return outcomes

    def _end(self, running: _Running, done: ReplyDone) -> Sequence[Outcome]:
        """Return what becomes of the line when one of its answers has ended."""
        job = running.job
        if done.reason is FinishReason.ERROR:
            if (failure := self._runner.failure) is not None:
                return [Returned(job), *self._lose(Lost(failure))]  # not the line's fault
            self._drop(job)
            return [Stumbled(job, "generation_failed", done.error or "the engine failed", _tokens(running))]
        finished = [choice.done for choice in running.choices.values() if choice.done]
        if len(finished) < len(running.choices) or any(one.reason is FinishReason.CANCELLED for one in finished):
            return ()
        body = answer_body(job.key, finished, model=self.name, created_s=int(time.time()))
        notes = {"notes": list(running.prepared.notes)} if running.prepared.notes else {}
        ours = {"seed": finished[0].timing.seed, "thinking": running.prepared.thinking, **notes}
        return [Answered(job, body, _tokens(running), ours)]

    def _drop(self, job: BatchJob) -> None:
        """Forget a line, and cancel what the engine still does for it."""
        for name in [name for name, running in self._running.items() if running.job is job]:
            del self._running[name]
            self._runner.cancel(name)

    def _lose(self, lost: Lost) -> list[Outcome]:
        if self._is_lost:
            return []
        self._is_lost = True
        jobs = {id(running.job): running.job for running in self._running.values()}
        self._running.clear()
        return [*map(Returned, jobs.values()), lost]


def _requests(first: GenerationRequest, job: BatchJob) -> list[GenerationRequest]:
    """Return a request for each answer that the line wants, every attempt and answer with a seed of its own."""
    requests = []
    for number in range(job.request.n_answers):
        seed, step = first.sampling.seed, job.n_attempts * job.request.n_answers + number
        if seed is not None:
            seed = (seed + step * _SEED_STEP) % _N_SEEDS
        sampling = replace(first.sampling, seed=seed)
        requests.append(replace(first, request_id=f"{first.request_id}-{number}", sampling=sampling))
    return requests


def _tokens(running: _Running) -> TokenCounts:
    """The prompt is counted once, however many answers it gets."""
    usages = [choice.done.usage for choice in running.choices.values() if choice.done]
    n_generated = sum(choice.n_tokens for choice in running.choices.values())
    if not usages:
        return TokenCounts(len(running.prepared.request.prompt_tokens), 0, n_generated)
    return TokenCounts(usages[0].n_prompt_tokens, min(usage.n_cached_tokens for usage in usages), n_generated)


def _code(error: QwenctlError) -> str:
    names = {PromptTooLong: "prompt_too_long", TemplateFailed: "template_failed"}
    return names.get(type(error), "invalid_request")
