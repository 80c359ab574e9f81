"""A chat body to replies under way: rendered, tokenized and submitted. For OpenAI's and Anthropic's API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from qwenctl.errors import PromptTooLong
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.chat_requests import ChatRequests, chat_requests
from qwenctl.services.api.choice_reader import ChoiceReader
from qwenctl.services.server.desk import Desk
from qwenctl.services.server.exchange import Exchange
from qwenctl.services.server.model_host import LoadedModel


class StartedChat(NamedTuple):
    """Replies under way."""

    exchange: Exchange
    readers: list[ChoiceReader]  # one of each
    notes: tuple[str, ...]  # for people


async def start_chat(desk: Desk, model: LoadedModel, body: ChatBody, name: str) -> StartedChat:
    """Return the replies under way.

    Raises:
        QwenctlError: the body asks for what the model or its context cannot give.
    """
    exchange = desk.exchange(model, is_urgent=body.stream)
    try:
        requests = await desk.off_loop(partial(_submit, desk, model, body, name, exchange))
    except BaseException:
        exchange.abandon()
        raise
    return StartedChat(exchange, requests.readers(), requests.prepared.notes)


async def count_tokens(desk: Desk, model: LoadedModel, body: ChatBody) -> int:
    """Return how many tokens the prompt of `body` has, whole, whether or not the context holds so many."""
    make = partial(chat_requests, model.chat, body, replace(desk.defaults, overflow="refuse"), "count")
    try:
        return len((await desk.off_loop(make)).prepared.request.prompt_tokens)
    except PromptTooLong as error:
        return error.n_prompt_tokens


def _submit(desk: Desk, model: LoadedModel, body: ChatBody, name: str, exchange: Exchange) -> ChatRequests:
    found = chat_requests(model.chat, body, desk.defaults, name)
    exchange.submit(found.requests)
    return found
