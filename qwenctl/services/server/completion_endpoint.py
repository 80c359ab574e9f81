"""POST /v1/completions: plain text, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from starlette.types import Receive, Scope, Send

from qwenctl.services.api.answer_head import AnswerHead
from qwenctl.services.api.chat_requests import completion_requests
from qwenctl.services.api.choice_reader import PlainReader
from qwenctl.services.api.completion_answer import CompletionChunks, TextChoice, completion_answer
from qwenctl.services.api.completion_body import CompletionBody, parse_completion_body
from qwenctl.services.api.event_bytes import DONE_EVENT, comment, data_event
from qwenctl.services.reply import AnswerDelta, ReplyDone
from qwenctl.services.server.asgi_answers import Refused, error_body, send_json
from qwenctl.services.server.chat_endpoint import first_arrivals
from qwenctl.services.server.desk import Desk, new_id
from qwenctl.services.server.exchange import Arrival, Exchange
from qwenctl.services.server.model_host import LoadedModel
from qwenctl.services.server.reply_writer import EventStream, watch_client


class CompletionEndpoint:
    """Goes on with texts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        desk = self._desk
        body = parse_completion_body(await desk.bodies.read(scope, receive))
        n_replies = body.n * len(body.prompts)
        with desk.admission.enter(n_replies):
            async with desk.host.lend(body.model) as model:
                head = AnswerHead(new_id("cmpl-"), model.name, int(time.time()), model.fingerprint)
                exchange = desk.exchange(model, is_urgent=body.stream)
                readers = [PlainReader(wants_logprobs=body.n_logprobs is not None) for _ in range(n_replies)]
                async with watch_client(receive, exchange):
                    await desk.off_loop(partial(self._submit, model, body, head.id, exchange))
                    if body.stream:
                        chunks = CompletionChunks(head, include_usage=body.include_usage)
                        await _CompletionStream(desk, model, readers, chunks).run(scope, send, exchange, body.n)
                    else:
                        await self._collect(model, exchange, readers)
                        choices = [TextChoice(one.done, one.logprobs) for one in readers if one.done]
                        await send_json(send, completion_answer(head, choices, body.n))

    def _submit(self, model: LoadedModel, body: CompletionBody, name: str, exchange: Exchange) -> None:
        exchange.submit(completion_requests(model.chat, body, self._desk.defaults, name))

    async def _collect(self, model: LoadedModel, exchange: Exchange, readers: Sequence[PlainReader]) -> None:
        while arrivals := await exchange.arrivals():
            for index, event in arrivals:
                piece = readers[index].take(event)
                if isinstance(piece, ReplyDone):
                    self._desk.ended(piece, model)


class _CompletionStream:
    """One answer as a stream."""

    def __init__(
        self, desk: Desk, model: LoadedModel, readers: Sequence[PlainReader], chunks: CompletionChunks
    ) -> None:
        self._desk = desk
        self._model = model
        self._readers = readers
        self._chunks = chunks

    async def run(self, scope: Scope, send: Send, exchange: Exchange, n_per_prompt: int) -> None:
        stream = EventStream(scope, send, self._desk.options.limits.stall_s)
        try:
            await stream.begin()
            try:
                arrivals = await first_arrivals(exchange, stream, comment("computing the prompt"))
                while arrivals:
                    await stream.write(self._encoded(arrivals))
                    arrivals = await exchange.arrivals()
            except Refused as refused:
                exchange.abandon()
                await stream.end(data_event(error_body(scope, refused.error)))
                return
            replies = [reader.done for reader in self._readers if reader.done]
            await stream.end(self._chunks.usage(replies, n_per_prompt) + DONE_EVENT)
        finally:
            stream.close()

    def _encoded(self, arrivals: Sequence[Arrival]) -> bytes:
        found = []
        for index, event in arrivals:
            reader = self._readers[index]
            offset = reader.n_chars
            piece = reader.take(event)
            if isinstance(piece, AnswerDelta):
                found.append(self._chunks.text(index, piece.text, piece.logprobs, offset=offset))
            elif isinstance(piece, ReplyDone):
                found.append(self._chunks.last(index, self._desk.ended(piece, self._model)))
        return b"".join(found)
