"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from qwenctl.services.api.anthropic_answer import anthropic_answer
from qwenctl.services.api.anthropic_body import parse_anthropic_body
from qwenctl.services.api.anthropic_events import AnthropicEvents
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool
from qwenctl.services.api.choice_reader import ChoicePiece, ChoiceReader
from qwenctl.services.api.event_bytes import named_event
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyDone
from qwenctl.services.server.asgi_answers import send_json
from qwenctl.services.server.chat_start import count_tokens, start_chat
from qwenctl.services.server.delivery import collect, stream
from qwenctl.services.server.desk import Desk, new_id
from qwenctl.services.server.exchange import Arrival
from qwenctl.services.server.model_host import LoadedModel
from qwenctl.services.server.reply_writer import watch_client


class MessagesEndpoint:
    """Answers messages."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        desk = self._desk
        body = parse_anthropic_body(await desk.bodies.read(scope, receive))
        with desk.admission.enter():
            async with desk.host.lend(body.model) as model:
                name = new_id("msg_")
                exchange, readers, _ = await start_chat(desk, model, body, name)
                desk.live[name] = exchange
                try:
                    async with watch_client(receive, exchange):
                        if body.stream:
                            events = AnthropicEvents(name, model.name)
                            encoder = _MessageEncoder(desk, model, readers[0], events, exchange.n_prompt_tokens)
                            await stream(desk, scope, send, exchange, encoder)
                        else:
                            await collect(desk, model, exchange, readers)
                            await send_json(send, anthropic_answer(name, model.name, readers[0].choice()))
                finally:
                    del desk.live[name]


class _MessageEncoder:
    """One answer as events."""

    def __init__(
        self, desk: Desk, model: LoadedModel, reader: ChoiceReader, events: AnthropicEvents, n_prompt_tokens: int
    ) -> None:
        self._desk = desk
        self._model = model
        self._reader = reader
        self._events = events
        self._n_prompt_tokens = n_prompt_tokens

    def begin(self) -> bytes:
        return self._events.start(self._n_prompt_tokens)

    def sign_of_life(self) -> bytes:
        return self._events.ping()

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return named_event("error", error)

    def end(self) -> bytes:
        return b""  # the reply's own end was the last

    def events(self, arrivals: Sequence[Arrival]) -> bytes:
        return b"".join(self._event(piece) for _, event in arrivals for piece in self._reader.take(event))

    def _event(self, piece: ChoicePiece) -> bytes:
        events = self._events
        if isinstance(piece, AnswerDelta):
            return events.text(piece.text)
        if isinstance(piece, ReasoningDelta):
            return events.reasoning(piece.text)
        if isinstance(piece, ArgumentsDelta):
            return events.arguments(piece)
        if isinstance(piece, CalledTool):
            return events.call(piece)
        if isinstance(piece, ReplyDone):
            return events.end(self._desk.ended(piece, self._model), calls_tools=self._reader.choice().calls_tools)
        return b""


class CountEndpoint:
    """Counts the tokens of a prompt."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        desk = self._desk
        body = parse_anthropic_body(await desk.bodies.read(scope, receive), counts_only=True)
        with desk.admission.enter():
            async with desk.host.lend(body.model) as model:
                await send_json(send, {"input_tokens": await count_tokens(desk, model, body)})
