"""The tools of a chat body, and whether they may or must be called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwenctl.services.api.body_fields import BadRequest, read_flag, shown
from qwenctl.services.tools.tool_choice import ToolChoice, ToolMode

MOST_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def read_tools(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the tools in OpenAI's form, which is what templates are given.

    Raises:
        BadRequest: one is no function, or has no usable name.
    """
    value = body.get("tools")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_TOOLS:
        raise BadRequest(f"'tools' must be a list of at most {MOST_TOOLS} functions", "tools")
    return tuple(_tool(index, item) for index, item in enumerate(value))


def _tool(index: int, item: Any) -> Mapping[str, Any]:
    place = f"tools[{index}]"
    if not isinstance(item, dict) or item.get("type", "function") != "function":
        kind = item.get("type") if isinstance(item, dict) else item
        raise BadRequest(f'tool {index + 1} must be of the type "function", not {shown(kind)}', place)
    function = item.get("function")
    if not isinstance(function, dict):
        raise BadRequest(f"tool {index + 1} has no 'function'", place)
    return make_tool(place, function.get("name"), function.get("description"), function.get("parameters"))


def make_tool(place: str, name: Any, description: Any, parameters: Any) -> dict[str, Any]:
    """Return a tool in OpenAI's form, its members checked.

    Raises:
        BadRequest: with `place`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        what = "the name of a tool must have 1 to 128 letters, digits, underscores, dots and dashes"
        raise BadRequest(f"{what}, not {shown(name)}", place)
    if not isinstance(description, str | None):
        raise BadRequest(f"the description of the tool {name} must be text", place)
    if not isinstance(parameters, dict | None):
        raise BadRequest(f"the parameters of the tool {name} must be a JSON schema", place)
    schema = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": schema}}


def read_tool_choice(body: Mapping[str, Any], tools: tuple[Mapping[str, Any], ...]) -> ToolChoice:
    """Return `tool_choice` and `parallel_tool_calls`.

    Raises:
        BadRequest: an unknown choice, or one of a tool that is not there.
    """
    parallel = read_flag(body, "parallel_tool_calls") is not False
    value = body.get("tool_choice")
    if value is None:
        return ToolChoice(parallel=parallel)
    if value in ("auto", "none", "required") and isinstance(value, str):
        mode: ToolMode = "auto" if value == "auto" else "none" if value == "none" else "required"
        return checked_choice(ToolChoice(mode, None, parallel), tools)
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        what = '\'tool_choice\' must be "auto", "none", "required" or {"type": "function", "function": {"name": …}}'
        raise BadRequest(what, "tool_choice")
    return checked_choice(ToolChoice("required", name, parallel), tools)


def checked_choice(choice: ToolChoice, tools: tuple[Mapping[str, Any], ...]) -> ToolChoice:
    """Return `choice` if `tools` permit it.

    Raises:
        BadRequest: a call is required, but there is no such tool.
    """
    names = [tool["function"]["name"] for tool in tools]
    if choice.mode == "required" and not names:
        raise BadRequest("'tool_choice' asks for a call, but there are no 'tools'", "tool_choice")
    if choice.name is not None and choice.name not in names:
        raise BadRequest(f"'tool_choice' names {shown(choice.name)}, which is not among the tools", "tool_choice")
    return choice
