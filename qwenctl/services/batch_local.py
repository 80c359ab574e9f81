"""The worker that answers lines with a model opened here: its engine is stepped by a runner's thread meanwhile.

While the engine computes, the batch's thread prepares further lines (template, tokens, sampler) and leaves them with
the engine, so that a sequence that ends makes room for one that is ready.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from qwenctl.core import Finished, FinishReason, GenerationEvent, TextDelta
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
from qwenctl.services.batch_options import BatchOptions
from qwenctl.services.batch_work import (
    EmbeddingWork,
    LineWork,
    ReplyReader,
    chat_work,
    completion_work,
    embedding_work,
    schema_faults,
    with_system,
)
from qwenctl.services.embedder import Embeddings
from qwenctl.services.generation import ChatModel
from qwenctl.services.reply import ReplyDone
from qwenctl.services.serving.engine_runner import EngineRunner

_READY_LINES = 32  # a small model ends some in the time that this thread waits for a busy processor
_TELL_EVERY_S = 0.1  # how far lines are


@dataclass(slots=True)
class _Running:
    """A line that the engine works on."""

    job: BatchJob
    work: LineWork
    readers: dict[str, ReplyReader]  # by name of the request
    n_tokens: dict[str, int] = field(default_factory=dict)  # generated so far, by name of the request

    def count(self, last: GenerationEvent) -> int:
        """Return the generated tokens that `last`, and what came unread before it, add."""
        n_before = self.n_tokens.get(last.request_id, 0)
        if isinstance(last, TextDelta):
            self.n_tokens[last.request_id] = last.n_tokens
        elif isinstance(last, Finished):
            self.n_tokens[last.request_id] = last.usage.n_generated_tokens
        return self.n_tokens.get(last.request_id, 0) - n_before

    @property
    def tokens(self) -> TokenCounts:
        """All that it took; a prompt counts once, however many replies it gets."""
        readers = list(self.readers.values())
        firsts = [reader.done.usage for reader in readers[:: len(readers) // self.work.n_prompts] if reader.done]
        n_cached = sum(usage.n_cached_tokens for usage in firsts)
        return TokenCounts(self.work.n_prompt_tokens, n_cached, sum(self.n_tokens.values()))


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The vectors of a line, or why there are none."""

    job: BatchJob
    work: EmbeddingWork
    future: Future[Embeddings]


class LinePreparer:
    """Makes work of lines, on the caller's thread.

    Args:
        model: that is to do it.
        options: of the batch.
    """

    def __init__(self, model: ChatModel, options: BatchOptions) -> None:
        self._model, self._chat, self._system = model, options.chat, options.system

    def look_ahead(self, jobs: Sequence[BatchJob]) -> None:
        """Render the prompts of several chats together, which is quicker."""
        bodies = [job.request.parsed for job in jobs]
        chats = [with_system(body, self._system) for body in bodies if isinstance(body, ChatBody)]
        with suppress(TemplateFailed):
            self._model.render_ahead([(chat.messages, chat.options(self._chat)) for chat in chats])

    def work(self, job: BatchJob) -> LineWork | EmbeddingWork:
        """Return what the engine is to do for a line.

        Raises:
            LineRefused: it cannot be done.
        """
        body, model = job.request.parsed, self._model
        try:
            if isinstance(body, ChatBody):
                return chat_work(model, job, body, self._chat, self._system)
            if isinstance(body, CompletionBody):
                return completion_work(model, job, body, self._chat)
            return embedding_work(model, body)
        except (InvalidRequest, PromptTooLong, TemplateFailed) as error:
            raise LineRefused(_code(error), error.message) from error


class LocalWorker(BatchWorker):
    """Answers with `model`, whose engine nobody else uses meanwhile; it stays open.

    Args:
        model: the model.
        options: of the batch.
        mailbox: where news go.
        is_alone: nobody else would answer the lines that wait here, prepared, for a sequence.
    """

    def __init__(self, model: ChatModel, options: BatchOptions, mailbox: Mailbox, *, is_alone: bool) -> None:
        self.name = model.engine.info.name
        self._preparer = LinePreparer(model, options)
        n_ready = max(options.parallel, _READY_LINES) if is_alone else options.parallel
        self._n_most = options.parallel + n_ready
        self._options = options
        self._mailbox = mailbox
        self._prepared: dict[int, LineWork | EmbeddingWork] = {}  # by number of line
        self._running: dict[str, _Running] = {}  # by name of request
        self._unread: dict[str, list[GenerationEvent]] = {}  # by name of request; of the runner's thread alone
        self._told_s = time.monotonic()
        self._runner = EngineRunner(model.engine, options.parallel)
        self._n_embedding = 0  # lines
        self._is_lost = False

    @property
    def n_wanted(self) -> int:
        """Sequences that are free, and lines that are to be ready when others end."""
        return 0 if self._is_lost else self._n_most - len(self._running) - self._n_embedding

    def look_ahead(self, jobs: Sequence[BatchJob]) -> None:
        """Render the prompts of chats."""
        self._preparer.look_ahead(jobs)

    def prepare(self, job: BatchJob) -> int:
        """Render and tokenize."""
        work = self._preparer.work(job)
        self._prepared[job.line_number] = work
        return work.n_most_tokens

    def start(self, job: BatchJob) -> None:
        """Leave it with the engine."""
        work = self._prepared.pop(job.line_number)
        if isinstance(work, EmbeddingWork):
            self._embed(job, work)
        else:
            self._generate(job, work)

    def _embed(self, job: BatchJob, work: EmbeddingWork) -> None:
        self._n_embedding += 1
        try:
            future = self._runner.embed(work.token_lists)
        except QwenctlError as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda future: self._mailbox.put(self, _Embedded(job, work, future)))

    def _generate(self, job: BatchJob, work: LineWork) -> None:
        readers = {one.request_id: reader for one, reader in zip(work.requests, work.readers, strict=True)}
        self._running |= dict.fromkeys(readers, _Running(job, work, readers))
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
        """Take the events of a request."""
        if isinstance(item, Lost):
            return self._lose(item)
        if isinstance(item, Refused):
            self._drop(item.job)
            return [item]
        if isinstance(item, _Embedded):
            return self._end_embedding(item)
        return self._take(item)

    def stop(self) -> None:
        """Cancel what runs."""
        self._runner.stop()

    def _hear(self, events: Sequence[GenerationEvent]) -> None:
        """On the runner's thread: an end is told at once, a few tokens are not worth a small model's time."""
        name = events[0].request_id
        self._unread.setdefault(name, []).extend(events)
        if isinstance(events[-1], Finished):
            self._mailbox.put(self, self._unread.pop(name))
        elif (now_s := time.monotonic()) - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            for unread in self._unread.values():
                self._mailbox.put(self, unread, wakes=False)
            self._unread.clear()

    def _take(self, events: Sequence[GenerationEvent]) -> Sequence[Outcome]:
        name = events[0].request_id
        running = self._running.get(name)
        if running is None:
            return ()
        outcomes: list[Outcome] = []
        if n_tokens := running.count(events[-1]):
            outcomes.append(Generated(running.job, n_tokens))
        reader = running.readers[name]
        for event in events:
            reader.take(event)
        if reader.done:
            del self._running[name]
            outcomes += self._end(running, reader.done)
        return outcomes

    def _end(self, running: _Running, done: ReplyDone) -> Sequence[Outcome]:
        """Return what becomes of the line when one of its replies has ended."""
        job = running.job
        if done.reason is FinishReason.ERROR:
            if (failure := self._runner.failure) is not None:
                return [Returned(job), *self._lose(Lost(failure))]  # not the line's fault
            self._drop(job)
            return [Stumbled(job, "generation_failed", done.error or "the engine failed", running.tokens)]
        replies = [reader.done for reader in running.readers.values()]
        if any(reply is None or reply.reason is FinishReason.CANCELLED for reply in replies):
            return ()
        body = running.work.answer()
        if faults := schema_faults(job.request, self._options.chat, body):
            return [Stumbled(job, "invalid_answer", faults[0], running.tokens, body)]
        seed = next(reply.timing.seed for reply in replies if reply)
        return [Answered(job, body, running.tokens, {"seed": seed, **running.work.ours})]

    def _end_embedding(self, item: _Embedded) -> Sequence[Outcome]:
        job, work = item.job, item.work
        self._n_embedding -= 1
        try:
            vectors = item.future.result()
        except (InvalidRequest, PromptTooLong) as error:
            return [Refused(job, _code(error), error.message)]
        except QwenctlError as error:
            if (failure := self._runner.failure) is not None:
                return [Returned(job), *self._lose(Lost(failure))]
            return [Stumbled(job, "generation_failed", error.message)]
        tokens = TokenCounts(work.n_most_tokens)
        return [Answered(job, work.answer(vectors.tolist()), tokens)]

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


def _code(error: QwenctlError) -> str:
    names = {PromptTooLong: "prompt_too_long", TemplateFailed: "template_failed"}
    return names.get(type(error), "invalid_request")
