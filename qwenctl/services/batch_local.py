"""The worker that answers lines with a model opened here: its engine is stepped by a runner's thread meanwhile.

While the engine computes, the batch's thread prepares further lines (template, tokens, sampler) and leaves them with
the engine, so that a sequence that ends makes room for one that is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.core import Finished, FinishReason, GenerationEvent
from qwenctl.errors import InvalidRequest, PromptTooLong, QwenctlError, TemplateFailed
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.completion_body import CompletionBody
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
from qwenctl.services.batch_work import LineWork, ReplyCollector, chat_work, completion_work
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import ReplyDone
from qwenctl.services.serving.engine_runner import EngineRunner

_SEED_STEP = 0x9E37_79B1  # 2^32 / golden ratio: seeds of attempts lie far apart
_N_SEEDS = 0xFFFF_FFFF


@dataclass(slots=True)
class _Running:
    """A line that the engine works on."""

    job: BatchJob
    work: LineWork
    collectors: dict[str, ReplyCollector]  # by name of the request


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
        self._prepared: dict[int, LineWork] = {}  # by number of line
        self._running: dict[str, _Running] = {}  # by name of request
        self._runner = EngineRunner(model.engine, parallel)
        self._is_lost = False

    @property
    def n_wanted(self) -> int:
        """Sequences that are free, and as many again."""
        return 0 if self._is_lost else self._n_most - len(self._running)

    def prepare(self, job: BatchJob) -> int:
        """Render and tokenize."""
        body, model = job.request.parsed, self._model
        try:
            if isinstance(body, ChatBody):
                work = chat_work(model, job, body, self._options, self._system)
            elif isinstance(body, CompletionBody):
                work = completion_work(model, job, body, self._options)
            else:
                raise InvalidRequest("embeddings are not computed here yet")
        except (InvalidRequest, PromptTooLong, TemplateFailed) as error:
            raise LineRefused(_code(error), error.message) from error
        self._prepared[job.line_number] = work
        return work.n_most_tokens

    def start(self, job: BatchJob) -> None:
        """Leave it with the engine."""
        work = self._prepared.pop(job.line_number)
        collectors = {one.request_id: ReplyCollector(starts_inside=work.starts_inside) for one in work.requests}
        self._running |= dict.fromkeys(collectors, _Running(job, work, collectors))
        for request in work.requests:
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
        if running is None:
            return ()
        collector = running.collectors[event.request_id]
        outcomes: list[Outcome] = []
        if n_tokens := collector.take(event):
            outcomes.append(Generated(running.job, n_tokens))
        if collector.reply:
            del self._running[event.request_id]
            outcomes += self._end(running, collector.reply.done)
        return outcomes

    def _end(self, running: _Running, done: ReplyDone) -> Sequence[Outcome]:
        """Return what becomes of the line when one of its replies has ended."""
        job, work = running.job, running.work
        if done.reason is FinishReason.ERROR:
            if (failure := self._runner.failure) is not None:
                return [Returned(job), *self._lose(Lost(failure))]  # not the line's fault
            self._drop(job)
            return [Stumbled(job, "generation_failed", done.error or "the engine failed", _tokens(running))]
        replies = [collector.reply for collector in running.collectors.values() if collector.reply]
        if len(replies) < len(work.requests) or any(one.done.reason is FinishReason.CANCELLED for one in replies):
            return ()
        body = work.answer(replies)
        if faults := work.faults(replies):
            return [Stumbled(job, "invalid_answer", faults[0], _tokens(running), body)]
        return [Answered(job, body, _tokens(running), {"seed": replies[0].done.timing.seed, **work.ours})]

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


def _tokens(running: _Running) -> TokenCounts:
    """A prompt counts once, however many replies it gets."""
    replies = [collector.reply for collector in running.collectors.values()]
    firsts = [reply.done.usage for reply in replies[:: len(replies) // running.work.n_prompts] if reply]
    n_generated = sum(collector.n_tokens for collector in running.collectors.values())
    return TokenCounts(running.work.n_prompt_tokens, sum(usage.n_cached_tokens for usage in firsts), n_generated)


def _code(error: QwenctlError) -> str:
    names = {PromptTooLong: "prompt_too_long", TemplateFailed: "template_failed"}
    return names.get(type(error), "invalid_request")
