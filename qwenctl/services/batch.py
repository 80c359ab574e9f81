"""Answer a file of requests with many sequences at once, and go on where an earlier run stopped.

    check    the output's records against the input: what is answered, what was edited since
    fill     lines → requests, until `parallel` are in the engine
    step     the engine's events → replies → records, appended as they finish

A line that cannot be answered gets an error record and the run goes on. Knows no command line; exit codes are its
caller's, who can ask the summary for a `BatchFailed`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.core import FinishReason, Message, PromptProgress, TextDelta
from qwenctl.errors import BatchFailed, GenerationFailed, InvalidRequest, PromptTooLong, QwenctlError, TemplateFailed
from qwenctl.services.batch_input import BatchInput, InputLine
from qwenctl.services.batch_output import BatchOutput
from qwenctl.services.batch_record import RecordKey, answer_record, encode_record, error_record
from qwenctl.services.batch_request import BadLine, BatchRequest, default_id, parse_line
from qwenctl.services.fingerprint_table import FingerprintTable, fingerprint
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt
from qwenctl.services.reply import ReplyAssembler, ReplyDone

_REPORT_EVERY_S = 0.1
_DEFAULT_ID = re.compile(r"line-\d+-[0-9a-f]{8}")
_START_ANEW = "--restart answers all lines anew; another output file keeps both"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is run."""

    chat: ChatOptions = field(default_factory=ChatOptions)  # for lines that do not say otherwise
    system: str | None = None  # for lines without a system prompt
    parallel: int = 8  # sequences at the same time; the engine is opened for as many
    restart: bool = False  # throw earlier results away
    retry_errors: bool = False  # answer lines again that have an error record


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is."""

    n_finished: int  # of the input's lines, earlier runs included
    n_total: int
    n_errors: int  # of this run
    n_generated_tokens: int
    tokens_per_s: float
    seconds_left: float | None  # None: nothing is finished yet


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a run did."""

    n_done: int
    n_errors: int
    n_skipped: int  # answered by an earlier run
    n_skipped_errors: int  # of those, error records
    n_prompt_tokens: int
    n_generated_tokens: int
    seconds: float

    def failure(self, out_path: Path) -> BatchFailed | None:
        """Return the error to end with when the output holds error records."""
        n_errors = self.n_errors + self.n_skipped_errors
        if not n_errors:
            return None
        n_lines = self.n_done + self.n_errors + self.n_skipped
        message = f"{n_errors} of {n_lines} lines ended in an error record in {out_path}"
        return BatchFailed(message, "correct these lines, or run again with --retry-errors")


def run_batch(
    model: ChatModel,
    in_path: Path,
    out_path: Path,
    options: BatchOptions | None = None,
    on_progress: Callable[[BatchProgress], None] | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> BatchSummary:
    """Answer every line of `in_path` that `out_path` does not answer yet, appending to it.

    Raises:
        InvalidRequest: the files are the same, unreadable, or do not belong together; nothing is generated then.
        QwenctlError: the output could not be written, or the engine failed as a whole. What is finished is kept.
    """
    options = options or BatchOptions()
    if options.parallel < 1:
        raise InvalidRequest("a batch needs at least one sequence")
    lines = BatchInput(in_path)
    if out_path.exists() and out_path.samefile(in_path):
        raise InvalidRequest(f"{in_path} cannot be input and output at once")
    with BatchOutput(out_path, restart=options.restart, retry_errors=options.retry_errors, clock=clock) as output:
        settings = settings_digest(model, options)
        check_earlier_results(lines, output, settings)
        return _Run(model, output, options, settings, _Report(lines, on_progress, clock)).run(lines)


def settings_digest(model: ChatModel, options: BatchOptions) -> str:
    """Return a digest of all that makes the same line get another answer."""
    info, chat = model.engine.info, options.chat
    what = [info.name, info.architecture, info.n_weights, info.file_bytes, info.chat_template, options.system]
    what += [chat.thinking, dict(chat.sampling), chat.max_tokens, chat.stop, chat.truncate]
    what += [list(chat.tools), dict(chat.template_variables)]
    if chat.think_budget is not None:  # only then: results from before there were budgets stay valid
        what.append(chat.think_budget)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def check_earlier_results(lines: BatchInput, output: BatchOutput, settings: str) -> None:
    """Refuse to go on where earlier results do not belong to this input.

    Results of lines that were removed since may stay when the line had a name of its own.

    Raises:
        InvalidRequest: other settings, or a line has other content than when it was answered; the message names it.
    """
    if not len(output.answered):
        return
    if output.settings != {settings}:
        raise InvalidRequest(f"{output.path} was written by another model or with other options", _START_ANEW)
    found, n_matching = FingerprintTable(), 0
    for line in lines.lines():
        request = parse_line(line)
        name = fingerprint(request.custom_id.encode())
        if name in found:  # a duplicate: not what was answered under this name
            name = fingerprint(default_id(line.number, request.sha256).encode())
        found.put(name, 0)
        n_matching += name in output.answered
        if output.answered.get(name) not in (None, fingerprint(request.sha256.encode())):
            what = f"line {line.number} of {lines.path} ({request.custom_id!r}) was changed"
            raise InvalidRequest(f"{what} since {output.path} answered it", _START_ANEW)
    for record in output.records() if n_matching < len(output.answered) else ():
        custom_id = record.key.custom_id
        if _DEFAULT_ID.fullmatch(custom_id) and fingerprint(custom_id.encode()) not in found:
            what = f"{output.path} answers {custom_id!r}"
            raise InvalidRequest(f"{what}, which {lines.path} no longer has: it was changed since", _START_ANEW)


class _Report:
    """Counts, and tells the caller now and then."""

    def __init__(
        self, lines: BatchInput, on_progress: Callable[[BatchProgress], None] | None, clock: Callable[[], float]
    ) -> None:
        self.n_total = lines.count()
        self.n_done = self.n_errors = self.n_skipped = self.n_prompt_tokens = self.n_generated_tokens = 0
        self._on_progress = on_progress
        self._clock = clock
        self._started = self._told = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def tell(self, *, always: bool = False) -> None:
        now = self._clock()
        if self._on_progress is None or (now - self._told < _REPORT_EVERY_S and not always):
            return
        self._told = now
        n_now = self.n_done + self.n_errors
        n_left = max(0, self.n_total - n_now - self.n_skipped)
        seconds = max(self.seconds, 1e-9)
        progress = BatchProgress(
            n_finished=n_now + self.n_skipped,
            n_total=self.n_total,
            n_errors=self.n_errors,
            n_generated_tokens=self.n_generated_tokens,
            tokens_per_s=self.n_generated_tokens / seconds,
            seconds_left=n_left * seconds / n_now if n_now else None,
        )
        self._on_progress(progress)


@dataclass(slots=True)
class _Running:
    """A request that the engine works on."""

    line_number: int
    key: RecordKey
    prepared: PreparedPrompt
    assembler: ReplyAssembler
    n_tokens: int = 0


class _Run:
    """One run, from the first line to the last record."""

    def __init__(
        self,
        model: ChatModel,
        output: BatchOutput,
        options: BatchOptions,
        settings: str,
        report: _Report,
    ) -> None:
        self._model = model
        self._output = output
        self._options = options
        self._settings = settings
        self._report = report
        self._seen = FingerprintTable()  # custom_id → number of its line
        self._running: dict[str, _Running] = {}

    def run(self, lines: BatchInput) -> BatchSummary:
        report, waiting = self._report, self._counted(lines)
        try:
            report.tell(always=True)
            while self._fill(waiting):
                self._step()
                report.tell()
        finally:
            for request_id in self._running:
                self._model.engine.cancel(request_id)
        report.tell(always=True)
        return BatchSummary(
            n_done=report.n_done,
            n_errors=report.n_errors,
            n_skipped=report.n_skipped,
            n_skipped_errors=self._output.n_answered_errors,
            n_prompt_tokens=report.n_prompt_tokens,
            n_generated_tokens=report.n_generated_tokens,
            seconds=report.seconds,
        )

    def _counted(self, lines: BatchInput) -> Iterator[InputLine]:
        """The lines; the total is corrected by the blank ones as they are passed over."""
        n_lines = last_number = 0
        for line in lines.lines():
            self._report.n_total -= line.number - last_number - 1
            n_lines, last_number = n_lines + 1, line.number
            yield line
        self._report.n_total = n_lines

    def _fill(self, waiting: Iterator[InputLine]) -> bool:
        """Start requests until enough are running; return whether any are."""
        while len(self._running) < self._options.parallel:
            line = next(waiting, None)
            if line is None:
                break
            self._start(line)
            self._report.tell()
        return bool(self._running)

    def _start(self, line: InputLine) -> None:
        request = self._named_once(line, parse_line(line))
        key = RecordKey(request.custom_id, request.sha256, self._settings)
        if fingerprint(request.custom_id.encode()) in self._output.answered:
            self._report.n_skipped += 1
        elif isinstance(request, BadLine):
            self._fail(key, line.number, request.code, request.message)
        else:
            self._submit(key, line.number, request)

    def _named_once(self, line: InputLine, request: BatchRequest | BadLine) -> BatchRequest | BadLine:
        name = fingerprint(request.custom_id.encode())
        earlier = self._seen.get(name)
        if earlier is None:
            self._seen.put(name, line.number)
            return request
        message = f"line {earlier} has the custom_id {request.custom_id!r} already"
        own_name = default_id(line.number, request.sha256)
        return BadLine(own_name, request.sha256, "duplicate_custom_id", message)

    def _submit(self, key: RecordKey, line_number: int, request: BatchRequest) -> None:
        messages = request.messages
        if self._options.system and not any(message.role == "system" for message in messages):
            messages = (Message("system", self._options.system), *messages)
        try:
            prepared = self._model.prepare(
                messages, request.options(self._options.chat), request_id=f"batch-{line_number}"
            )
            self._model.engine.submit(prepared.request)
        except (InvalidRequest, PromptTooLong, TemplateFailed) as error:
            self._fail(key, line_number, _code(error), error.message)
            return
        assembler = ReplyAssembler(starts_inside=prepared.starts_inside)
        self._running[prepared.request.request_id] = _Running(line_number, key, prepared, assembler)

    def _step(self) -> None:
        if not self._model.engine.has_work:
            raise GenerationFailed(f"the engine lost {len(self._running)} requests")
        for event in self._model.engine.step():
            running = self._running.get(event.request_id)
            if running is None or isinstance(event, PromptProgress):
                continue
            n_tokens = event.n_tokens if isinstance(event, TextDelta) else event.usage.n_generated_tokens
            self._report.n_generated_tokens += n_tokens - running.n_tokens
            running.n_tokens = n_tokens
            for item in running.assembler.take(event):
                if isinstance(item, ReplyDone):
                    del self._running[event.request_id]
                    self._finish(running, item)

    def _finish(self, running: _Running, done: ReplyDone) -> None:
        report = self._report
        report.n_prompt_tokens += done.usage.n_prompt_tokens
        if done.reason is FinishReason.CANCELLED:
            return  # somebody wants the run to end: the line is not answered
        if done.reason is FinishReason.ERROR:
            if (failure := self._model.engine.failure) is not None:
                raise failure  # not the line's: the next run answers it
            self._fail(running.key, running.line_number, "generation_failed", done.error or "the engine failed")
            return
        name = self._model.engine.info.name
        record = answer_record(running.key, running.prepared, done, model=name, created_s=int(time.time()))
        self._output.append(encode_record(record))
        report.n_done += 1

    def _fail(self, key: RecordKey, line_number: int, code: str, message: str) -> None:
        self._output.append(encode_record(error_record(key, code=code, message=message, line=line_number)))
        self._report.n_errors += 1


def _code(error: QwenctlError) -> str:
    names = {PromptTooLong: "prompt_too_long", TemplateFailed: "template_failed"}
    return names.get(type(error), "invalid_request")
