"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from starlette.types import Receive, Scope, Send

from qwenctl.services.api.embedding_body import EmbeddingBody, embedding_answer, parse_embedding_body
from qwenctl.services.generation import ChatModel
from qwenctl.services.server.asgi_answers import send_json
from qwenctl.services.server.desk import Desk


class EmbeddingEndpoint:
    """Turns texts into vectors."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        desk = self._desk
        body = parse_embedding_body(await desk.bodies.read(scope, receive))
        with desk.admission.enter():
            async with desk.host.lend(body.model) as model:
                tokens = await desk.off_loop(partial(embedding_tokens, model.chat, body))
                vectors = await asyncio.wrap_future(model.runner.embed(tokens))
                n_tokens = sum(map(len, tokens))
                await send_json(
                    send, embedding_answer(vectors.tolist(), n_tokens, model=model.name, as_base64=body.as_base64)
                )


def embedding_tokens(model: ChatModel, body: EmbeddingBody) -> Sequence[Sequence[int]]:
    """Return the tokens of each input; text is text, whatever special tokens it spells."""
    return [
        model.engine.tokenize(item, parse_special=False, add_special=True) if isinstance(item, str) else item
        for item in body.inputs
    ]
