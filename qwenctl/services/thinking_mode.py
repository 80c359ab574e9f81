"""Whether the next reply thinks, why, and how its think block is opened and guarded. Pure: knows no engine.

    what the template can do + what the user and the conversation ask for → ThinkingMode
    ThinkingMode + the end of the rendered prompt                         → ThinkBlock for the engine

Source of the sentence that ends thinking early: Qwen's documentation, thinking budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenctl.core import Message, ThinkBlock
from qwenctl.errors import InvalidRequest
from qwenctl.services.chat_template import TemplateCapabilities, ends_inside_thinking
from qwenctl.services.thinking import CLOSE_TAG, OPEN_TAG, soft_switch

EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now."
)
ENDING = f"{EARLY_STOP}\n{CLOSE_TAG}\n\n"


@dataclass(frozen=True, slots=True)
class ThinkingMode:
    """How the next reply begins."""

    switch: bool | None  # the template's `enable_thinking`; None: not given
    thinking: bool  # whether the model will think
    why: str  # in a few words, for people
    budget: int | None = None
    notes: tuple[str, ...] = ()  # what was ignored, a line each
    uses_tags: bool = True  # as in TemplateCapabilities

    def opened(self, prompt: str, *, has_grammar: bool) -> str:
        """Return `prompt` with the think block opened, where it must be sure to begin with one.

        A budget counts, and a grammar waits, from a known place on. Qwen3's own replies begin with the same two tokens.
        """
        must_begin = self.thinking and self.uses_tags and (has_grammar or self.budget is not None)
        return f"{prompt}{OPEN_TAG}\n" if must_begin and not ends_inside_thinking(prompt) else prompt

    def block(self, prompt: str) -> ThinkBlock | None:
        """Return what the engine watches after `prompt`; None: no block can open any more."""
        if prompt.rstrip().endswith(CLOSE_TAG):
            return None
        return ThinkBlock(ends_inside_thinking(prompt), self.budget, ENDING)


def thinking_mode(
    capabilities: TemplateCapabilities, messages: Sequence[Message], wanted: bool | None, budget: int | None
) -> ThinkingMode:
    """Return how the next reply begins.

    Args:
        capabilities: of the chat template.
        messages: the conversation; the last `/think` or `/no_think` in it counts for hybrid models.
        wanted: what the user asked for; None: nothing.
        budget: tokens of thinking that the user allows; 0 does not let a hybrid model think at all.

    Raises:
        InvalidRequest: the budget is negative.
    """
    if budget is not None and budget < 0:
        raise InvalidRequest(f"a thinking budget must be at least 0 tokens, not {budget}")
    if capabilities.thinking == "none":
        notes = _ignored(
            "the model does not think", **{"--think": wanted is True, "--think-budget": budget is not None}
        )
        return ThinkingMode(None, False, "the model does not think", notes=notes)
    if capabilities.thinking == "always":
        notes = _ignored("the model always thinks", **{"--no-think": wanted is False})
        return ThinkingMode(None, True, "the model always thinks", budget, notes)
    return _hybrid_mode(capabilities, messages, wanted, budget)


def _hybrid_mode(
    capabilities: TemplateCapabilities, messages: Sequence[Message], wanted: bool | None, budget: int | None
) -> ThinkingMode:
    if wanted is False:
        notes = _ignored("thinking is off", **{"--think-budget": bool(budget)})
        return ThinkingMode(False, False, "as asked", notes=notes)
    if budget == 0:
        return ThinkingMode(False, False, "a thinking budget of 0")
    if wanted is None and budget is not None:
        wanted = True
    thinking, why = (capabilities.thinks_by_default, "the model's default") if wanted is None else (wanted, "as asked")
    switch = soft_switch(messages)
    if thinking and switch is not None:
        thinking, why = switch, "/think in the prompt" if switch else "/no_think in the prompt"
    return ThinkingMode(wanted, thinking, why, budget, uses_tags=capabilities.uses_tags)


def _ignored(why: str, **given: bool) -> tuple[str, ...]:
    return tuple(f"{why}: {option} is ignored" for option, is_given in given.items() if is_given)
