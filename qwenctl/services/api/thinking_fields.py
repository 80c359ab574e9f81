"""Whether and how long a model may think, from the many names that servers have for it.

enable_thinking, chat_template_kwargs.enable_thinking       Qwen
thinking_budget, thinking_token_budget                      Qwen's own service, vLLM: tokens
reasoning_effort, reasoning.effort                          OpenAI, OpenRouter: a word
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenctl.services.api.body_fields import BadRequest, read_flag, read_mapping, read_whole_number

FIELDS = frozenset(
    {
        "chat_template_kwargs",
        "enable_thinking",
        "thinking_budget",
        "thinking_token_budget",
        "reasoning_effort",
        "reasoning",
    }
)
# Tokens of thinking; None: no limit but that of the reply. "high" is what Qwen3 does by itself.
EFFORTS: Mapping[str, int | None] = {"minimal": 512, "low": 2048, "medium": 8192, "high": None, "xhigh": None}
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"})


@dataclass(frozen=True, slots=True)
class ThinkingWish:
    """What a body says about thinking. None: nothing."""

    thinking: bool | None = None
    budget: int | None = None  # tokens
    template_variables: Mapping[str, Any] = field(default_factory=dict)  # for the template, `enable_thinking` aside


def read_thinking(body: Mapping[str, Any]) -> ThinkingWish:
    """Return what is wished. An explicit switch or budget wins over an effort.

    Raises:
        BadRequest: a value of another kind, an unknown effort, a variable that is not the caller's to set.
    """
    variables = dict(read_mapping(body, "chat_template_kwargs"))
    reserved = sorted(_RESERVED & set(variables))
    if reserved:
        raise BadRequest(f"'chat_template_kwargs' cannot set '{reserved[0]}'", "chat_template_kwargs")
    inner = read_flag({"enable_thinking": variables.pop("enable_thinking", None)}, "enable_thinking")
    outer = read_flag(body, "enable_thinking")
    thinking = outer if inner is None else inner
    effort = _effort(body)
    budget = None
    for name in ("thinking_budget", "thinking_token_budget"):
        given = read_whole_number(body, name, 0, (1 << 31) - 1)
        budget = budget if given is None else given
    if effort is not None:
        thinking = effort != "none" if thinking is None else thinking
        budget = EFFORTS.get(effort) if budget is None else budget
    if budget == 0:
        thinking, budget = False, None
    return ThinkingWish(thinking, budget, variables)


def _effort(body: Mapping[str, Any]) -> str | None:
    value = body.get("reasoning_effort")
    reasoning = body.get("reasoning")
    if value is None and isinstance(reasoning, dict):
        value = reasoning.get("effort")
    if value is not None and (not isinstance(value, str) or value not in ("none", *EFFORTS)):
        raise BadRequest(f"'reasoning_effort' must be one of none, {', '.join(EFFORTS)}", "reasoning_effort")
    return value
