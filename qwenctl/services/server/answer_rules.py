"""What an answer is held to beside the sampling: the calls of tools. The server's only door to them."""

from __future__ import annotations

from qwenctl.services.api.body_fields import BadRequest
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.choice_reader import ToolTextParser
from qwenctl.services.generation import ChatOptions
from qwenctl.services.server.model_host import LoadedModel


def answer_options(body: ChatBody, defaults: ChatOptions, model: LoadedModel) -> ChatOptions:
    """Return the options of `body`.

    Raises:
        BadRequest: the model or the program cannot hold an answer to it.
    """
    if body.offered_tools and not model.chat.capabilities.tools:
        raise BadRequest(f"the model {model.name} has no form for tools in its chat template", "tools")
    return body.options(defaults)


def tool_parser() -> ToolTextParser | None:
    """Return what tells calls from text; None: all is text."""
    return None
