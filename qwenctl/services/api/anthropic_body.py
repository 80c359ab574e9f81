"""The body of Anthropic's Messages API, to the same values as a chat completion's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.core import Message
from qwenctl.services.api.anthropic_messages import blocks_text, read_anthropic_messages
from qwenctl.services.api.body_fields import (
    BadRequest,
    read_flag,
    read_mapping,
    read_object,
    read_text,
    read_texts,
    read_whole_number,
    shown,
)
from qwenctl.services.api.chat_body import MOST_STOPS, ChatBody, refuse_unsupported
from qwenctl.services.api.chat_tools import MOST_TOOLS, checked_choice, make_tool
from qwenctl.services.api.sampling_fields import read_sampling
from qwenctl.services.api.thinking_fields import ThinkingWish
from qwenctl.services.tools.tool_choice import ToolChoice

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {"mcp_servers": ([],), "container": ()}
_CHOICES = ("auto", "any", "tool", "none")


def parse_anthropic_body(value: Any, *, counts_only: bool = False) -> ChatBody:
    """Return what `value`, parsed JSON, asks for.

    Without `thinking` the model is not to think, as in Anthropic's API; one that always thinks still does.

    Args:
        counts_only: for count_tokens, which has no `max_tokens`.

    Raises:
        BadRequest: a field is missing, of another kind, out of range, or asks for something that is not supported.
    """
    body = read_object(value)
    refuse_unsupported(body, _UNSUPPORTED)
    max_tokens = read_whole_number(body, "max_tokens", 1)
    if max_tokens is None and not counts_only:
        raise BadRequest("'max_tokens' is missing", "max_tokens")
    wish, tools = _thinking(body), _tools(body)
    sampling_body = {name: body.get(name) for name in ("temperature", "top_p", "top_k")}
    return ChatBody(
        messages=(*_system(body), *read_anthropic_messages(body)),
        model=read_text(body, "model"),
        thinking=wish.thinking,
        think_budget=wish.budget,
        sampling=read_sampling(sampling_body),
        max_tokens=max_tokens,
        stop=read_texts(body, "stop_sequences", MOST_STOPS),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        answer_schema=_answer_schema(body),
        stream=read_flag(body, "stream") or False,
    )


def _system(body: Mapping[str, Any]) -> tuple[Message, ...]:
    value = body.get("system")
    if value is None:
        return ()
    text = value if isinstance(value, str) else blocks_text(value, "system")
    return (Message("system", text),) if text else ()


def _thinking(body: Mapping[str, Any]) -> ThinkingWish:
    given = read_mapping(body, "thinking")
    kind = given.get("type", "disabled")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise BadRequest("'thinking.type' must be one of enabled, disabled, adaptive", "thinking.type")
    budget = read_whole_number(given, "budget_tokens", 1) if kind == "enabled" else None
    return ThinkingWish(kind != "disabled", budget)


def _tools(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    value = body.get("tools")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_TOOLS:
        raise BadRequest(f"'tools' must be a list of at most {MOST_TOOLS} tools", "tools")
    return tuple(_tool(f"tools[{index}]", item) for index, item in enumerate(value))


def _tool(place: str, item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise BadRequest("a tool must be an object", place)
    if item.get("type", "custom") not in ("custom", None):
        raise BadRequest(f"a tool of the type {shown(item['type'])} runs at Anthropic's; only custom ones work", place)
    return make_tool(place, item.get("name"), item.get("description"), item.get("input_schema"))


def _tool_choice(body: Mapping[str, Any], tools: tuple[Mapping[str, Any], ...]) -> ToolChoice:
    given = read_mapping(body, "tool_choice")
    kind = given.get("type", "auto")
    if kind not in _CHOICES:
        raise BadRequest(f"'tool_choice.type' must be one of {', '.join(_CHOICES)}", "tool_choice.type")
    parallel = read_flag(given, "disable_parallel_tool_use") is not True
    if kind in ("auto", "none"):
        return ToolChoice("auto" if kind == "auto" else "none", None, parallel)
    name = read_text(given, "name") if kind == "tool" else None
    if kind == "tool" and name is None:
        raise BadRequest("'tool_choice' of the type \"tool\" must have a 'name'", "tool_choice.name")
    return checked_choice(ToolChoice("required", name, parallel), tools)


def _answer_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """`output_config.format` or its older name `output_format`, of the type json_schema."""
    given = read_mapping(read_mapping(body, "output_config"), "format") or read_mapping(body, "output_format")
    if not given:
        return None
    schema = given.get("schema")
    if given.get("type") != "json_schema" or not isinstance(schema, dict):
        raise BadRequest("'output_config.format' must be of the type \"json_schema\", with a schema", "output_config")
    return schema
