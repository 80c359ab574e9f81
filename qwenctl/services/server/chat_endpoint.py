"""POST /v1/chat/completions, whole or as a stream; and /v1/chat/completions/control, which ends the thinking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from qwenctl.core import PromptProgress
from qwenctl.services.api.answer_head import AnswerHead
from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.api.body_fields import BadRequest, read_choice, read_object, read_text
from qwenctl.services.api.chat_answer import CalledTool, chat_answer
from qwenctl.services.api.chat_body import parse_chat_body
from qwenctl.services.api.chat_chunks import ChatChunks
from qwenctl.services.api.choice_reader import ChoicePiece
from qwenctl.services.api.event_bytes import DONE_EVENT, comment, data_event
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyDone
from qwenctl.services.server.asgi_answers import Refused, error_body, send_json
from qwenctl.services.server.chat_start import StartedChat, start_chat
from qwenctl.services.server.desk import Desk, new_id
from qwenctl.services.server.exchange import Arrival, Exchange
from qwenctl.services.server.model_host import LoadedModel
from qwenctl.services.server.reply_writer import EventStream, watch_client

_KEEP_ALIVE_S = 10.0


class ChatEndpoint:
    """Answers chats."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        desk = self._desk
        body = parse_chat_body(await desk.bodies.read(scope, receive))
        with desk.admission.enter(body.n):
            async with desk.host.lend(body.model) as model:
                head = AnswerHead(new_id("chatcmpl-"), model.name, int(time.time()), model.fingerprint)
                started = await start_chat(desk, model, body, head.id)
                desk.live[head.id] = started.exchange
                try:
                    async with watch_client(receive, started.exchange):
                        if body.stream:
                            chunks = ChatChunks(head, include_usage=body.include_usage)
                            await _ChatStream(desk, model, chunks, started).run(scope, send)
                        else:
                            await self._whole(send, model, head, started)
                finally:
                    del desk.live[head.id]

    async def _whole(self, send: Send, model: LoadedModel, head: AnswerHead, started: StartedChat) -> None:
        while arrivals := await started.exchange.arrivals():
            for index, event in arrivals:
                for piece in started.readers[index].take(event):
                    if isinstance(piece, ReplyDone):
                        self._desk.ended(piece, model)
        await send_json(send, chat_answer(head, [reader.choice() for reader in started.readers], started.notes))


class _ChatStream:
    """One answer as a stream."""

    def __init__(self, desk: Desk, model: LoadedModel, chunks: ChatChunks, started: StartedChat) -> None:
        self._desk = desk
        self._model = model
        self._chunks = chunks
        self._exchange, self._readers, self._notes = started

    async def run(self, scope: Scope, send: Send) -> None:
        exchange, stream = self._exchange, EventStream(scope, send, self._desk.options.limits.stall_s)
        try:
            await stream.begin()
            await stream.write(b"".join(self._chunks.first(index) for index in range(len(self._readers))))
            try:
                arrivals = await first_arrivals(exchange, stream, comment("computing the prompt"))
                while arrivals:
                    if data := self._encoded(arrivals):
                        await stream.write(data)
                    arrivals = await exchange.arrivals()
            except Refused as refused:
                exchange.abandon()
                await stream.end(data_event(error_body(scope, refused.error)))
                return
            replies = [reader.choice().done for reader in self._readers]
            await stream.end(self._chunks.usage(replies, self._notes) + DONE_EVENT)
        finally:
            stream.close()

    def _encoded(self, arrivals: Sequence[Arrival]) -> bytes:
        return b"".join(
            self._chunk(index, piece) for index, event in arrivals for piece in self._readers[index].take(event)
        )

    def _chunk(self, index: int, piece: ChoicePiece) -> bytes:
        if isinstance(piece, AnswerDelta):
            return self._chunks.text(index, piece.text, piece.logprobs)
        if isinstance(piece, ReasoningDelta):
            return self._chunks.reasoning(index, piece.text)
        if isinstance(piece, PromptProgress):
            return self._chunks.progress(index, piece)
        if isinstance(piece, CalledTool):
            return self._chunks.call(index, piece)
        done = self._desk.ended(piece, self._model)
        return self._chunks.last(index, done, calls_tools=self._readers[index].calls_tools)


async def first_arrivals(exchange: Exchange, stream: EventStream, sign_of_life: bytes) -> list[Arrival]:
    """Return the first events; a long prompt takes its time, and proxies take silence for death."""
    while True:
        try:
            async with asyncio.timeout(_KEEP_ALIVE_S):
                return await exchange.arrivals()
        except TimeoutError:
            await stream.write(sign_of_life)


class ControlEndpoint:
    """Lets a reply under way stop thinking and answer: {"id": …, "action": "reasoning_end"}, as llama.cpp's server."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        body = read_object(await self._desk.bodies.read(scope, receive))
        if read_choice(body, "action", ("reasoning_end",)) is None:
            raise BadRequest("'action' must be \"reasoning_end\"", "action")
        name = read_text(body, "id")
        exchange = self._desk.live.get(name or "")
        if exchange is None:
            raise Refused(ApiError(404, "no answer of that id is under way", "id", "not_found"))
        exchange.end_thinking()
        await send_json(send, {"id": name, "action": "reasoning_end", "success": True})
