"""POST /v1/chat/completions, whole or as a stream; and /v1/chat/completions/control, which ends the thinking."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from qwenctl.core import PromptProgress
from qwenctl.services.api.answer_head import AnswerHead
from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.api.body_fields import BadRequest, read_choice, read_object, read_text
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool, chat_answer
from qwenctl.services.api.chat_body import parse_chat_body
from qwenctl.services.api.chat_chunks import ChatChunks
from qwenctl.services.api.choice_reader import ChoicePiece
from qwenctl.services.api.event_bytes import DONE_EVENT, comment, data_event
from qwenctl.services.reply import AnswerDelta, ReasoningDelta
from qwenctl.services.server.asgi_answers import Refused, send_json
from qwenctl.services.server.chat_start import StartedChat, start_chat
from qwenctl.services.server.delivery import collect, stream
from qwenctl.services.server.desk import Desk, new_id
from qwenctl.services.server.exchange import Arrival
from qwenctl.services.server.model_host import LoadedModel
from qwenctl.services.server.reply_writer import watch_client


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
                            encoder = _ChatEncoder(desk, model, chunks, started)
                            await stream(desk, scope, send, started.exchange, encoder)
                        else:
                            await collect(desk, model, started.exchange, started.readers)
                            choices = [reader.choice() for reader in started.readers]
                            await send_json(send, chat_answer(head, choices, started.notes))
                finally:
                    del desk.live[head.id]


class _ChatEncoder:
    """One answer as chunks."""

    def __init__(self, desk: Desk, model: LoadedModel, chunks: ChatChunks, started: StartedChat) -> None:
        self._desk = desk
        self._model = model
        self._chunks = chunks
        self._readers = started.readers
        self._notes = started.notes

    def begin(self) -> bytes:
        return b"".join(self._chunks.first(index) for index in range(len(self._readers)))

    def sign_of_life(self) -> bytes:
        return comment("computing the prompt")

    def events(self, arrivals: Sequence[Arrival]) -> bytes:
        return b"".join(
            self._chunk(index, piece) for index, event in arrivals for piece in self._readers[index].take(event)
        )

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return data_event(error)

    def end(self) -> bytes:
        replies = [reader.choice().done for reader in self._readers]
        return self._chunks.usage(replies, self._notes) + DONE_EVENT

    def _chunk(self, index: int, piece: ChoicePiece) -> bytes:
        if isinstance(piece, AnswerDelta):
            return self._chunks.text(index, piece.text, piece.logprobs)
        if isinstance(piece, ReasoningDelta):
            return self._chunks.reasoning(index, piece.text)
        if isinstance(piece, PromptProgress):
            return self._chunks.progress(index, piece)
        if isinstance(piece, ArgumentsDelta):
            return self._chunks.arguments(index, piece)
        if isinstance(piece, CalledTool):
            return self._chunks.call(index, piece)
        done = self._desk.ended(piece, self._model)
        return self._chunks.last(index, done, calls_tools=self._readers[index].choice().calls_tools)


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
