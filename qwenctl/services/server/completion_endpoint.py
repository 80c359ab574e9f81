"""POST /v1/completions: plain text, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from qwenctl.services.api.answer_head import AnswerHead
from qwenctl.services.api.chat_requests import completion_requests
from qwenctl.services.api.choice_reader import PlainReader
from qwenctl.services.api.completion_answer import CompletionChunks, TextChoice, completion_answer
from qwenctl.services.api.completion_body import CompletionBody, parse_completion_body
from qwenctl.services.api.event_bytes import DONE_EVENT, comment, data_event
from qwenctl.services.reply import AnswerDelta, ReplyDone
from qwenctl.services.server.asgi_answers import send_json
from qwenctl.services.server.delivery import collect, stream
from qwenctl.services.server.desk import Desk, new_id
from qwenctl.services.server.exchange import Arrival, Exchange
from qwenctl.services.server.model_host import LoadedModel
from qwenctl.services.server.reply_writer import watch_client


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
                        encoder = _CompletionEncoder(desk, model, readers, chunks, body.n)
                        await stream(desk, scope, send, exchange, encoder)
                    else:
                        await collect(desk, model, exchange, readers)
                        choices = [TextChoice(one.done, one.logprobs) for one in readers if one.done]
                        await send_json(send, completion_answer(head, choices, body.n))

    def _submit(self, model: LoadedModel, body: CompletionBody, name: str, exchange: Exchange) -> None:
        exchange.submit(completion_requests(model.chat, body, self._desk.defaults, name))


class _CompletionEncoder:
    """One answer as chunks."""

    def __init__(
        self,
        desk: Desk,
        model: LoadedModel,
        readers: Sequence[PlainReader],
        chunks: CompletionChunks,
        n_per_prompt: int,
    ) -> None:
        self._desk = desk
        self._model = model
        self._readers = readers
        self._chunks = chunks
        self._n_per_prompt = n_per_prompt

    def begin(self) -> bytes:
        return b""

    def sign_of_life(self) -> bytes:
        return comment("computing the prompt")

    def events(self, arrivals: Sequence[Arrival]) -> bytes:
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

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return data_event(error)

    def end(self) -> bytes:
        replies = [reader.done for reader in self._readers if reader.done]
        return self._chunks.usage(replies, self._n_per_prompt) + DONE_EVENT
