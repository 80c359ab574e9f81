"""An answer in the form of Anthropic's Messages API, whole."""

from __future__ import annotations

import json
from typing import Any

from qwenctl.core import FinishReason, Usage
from qwenctl.services.api.chat_answer import CalledTool, ChatChoice
from qwenctl.services.reply import ReplyDone


def anthropic_answer(message_id: str, model: str, choice: ChatChoice) -> dict[str, Any]:
    """Return the message: a block of thinking, of text and of each call, where there are such."""
    blocks: list[dict[str, Any]] = []
    if choice.done.reasoning:
        blocks.append({"type": "thinking", "thinking": choice.done.reasoning, "signature": ""})
    if choice.text or not choice.calls:
        blocks.append({"type": "text", "text": choice.text})
    blocks += [{"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in choice.calls]
    return {
        **message_members(message_id, model),
        "content": blocks,
        **ending_members(choice.done, calls_tools=choice.calls_tools),
        "usage": usage_of(choice.done.usage),
    }


def message_members(message_id: str, model: str) -> dict[str, Any]:
    """Return the members that a message begins with."""
    return {"id": message_id, "type": "message", "role": "assistant", "model": model}


def ending_members(done: ReplyDone, *, calls_tools: bool) -> dict[str, Any]:
    """Return why the reply ended."""
    if done.reason is FinishReason.LENGTH:
        reason = "max_tokens"
    elif calls_tools:
        reason = "tool_use"
    else:
        reason = "stop_sequence" if done.stop_text is not None else "end_turn"
    return {"stop_reason": reason, "stop_sequence": done.stop_text if reason == "stop_sequence" else None}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return the tokens; those of the prompt that were in the cache are counted apart, as Anthropic does."""
    return {
        "input_tokens": usage.n_prompt_tokens - usage.n_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.n_cached_tokens,
        "output_tokens": usage.n_generated_tokens,
    }


def _input(call: CalledTool) -> Any:
    """Arguments that broke off are no object; they go as Anthropic's guide to fine-grained tool streaming has them."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return {"INVALID_JSON": call.arguments}
