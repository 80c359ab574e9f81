"""A chat body to replies under way: rendered, tokenized, and submitted. For OpenAI's and Anthropic's API."""

from __future__ import annotations

from functools import partial

from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.choice_reader import ChoiceReader
from qwenctl.services.generation import PreparedPrompt
from qwenctl.services.server.answer_rules import answer_options, tool_parser
from qwenctl.services.server.desk import Desk, copies
from qwenctl.services.server.exchange import Exchange
from qwenctl.services.server.model_host import LoadedModel


async def start_chat(desk: Desk, model: LoadedModel, body: ChatBody, name: str) -> tuple[Exchange, list[ChoiceReader]]:
    """Return the exchange with its replies under way, and a reader of each.

    Raises:
        QwenctlError: the body asks for what the model or its context cannot give.
    """
    exchange = desk.exchange(model, is_urgent=body.stream)
    try:
        prepared = await desk.off_loop(partial(_submit, desk, model, body, name, exchange))
    except BaseException:
        exchange.abandon()
        raise
    readers = [
        ChoiceReader(
            starts_inside=prepared.starts_inside,
            parser=tool_parser(),
            wants_logprobs=body.n_logprobs is not None,
        )
        for _ in range(body.n)
    ]
    return exchange, readers


async def prepare_chat(desk: Desk, model: LoadedModel, body: ChatBody, name: str) -> PreparedPrompt:
    """Return the prompt of `body` without starting anything."""
    return await desk.off_loop(partial(_prepare, desk, model, body, name))


def _prepare(desk: Desk, model: LoadedModel, body: ChatBody, name: str) -> PreparedPrompt:
    return model.chat.prepare(body.messages, answer_options(body, desk.defaults, model), request_id=name)


def _submit(desk: Desk, model: LoadedModel, body: ChatBody, name: str, exchange: Exchange) -> PreparedPrompt:
    prepared = _prepare(desk, model, body, name)
    exchange.submit(copies(prepared.request, body.n))
    return prepared
