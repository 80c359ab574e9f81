from __future__ import annotations

import pytest

from qwenctl.core import Message, ThinkBlock
from qwenctl.errors import InvalidRequest
from qwenctl.services.chat_template import TemplateCapabilities
from qwenctl.services.thinking_mode import ENDING, thinking_mode

HYBRID = TemplateCapabilities("hybrid", thinks_by_default=True, uses_tags=True)
ALWAYS = TemplateCapabilities("always", thinks_by_default=True, uses_tags=True)
NEVER = TemplateCapabilities("none")
OFF_BY_DEFAULT = TemplateCapabilities("hybrid", thinks_by_default=False, uses_tags=True)
OTHER_TAGS = TemplateCapabilities("hybrid", thinks_by_default=True)


@pytest.mark.parametrize(
    ("can", "text", "wanted", "budget", "switch", "thinking", "why"),
    [
        (HYBRID, "Hello", None, None, None, True, "the model's default"),
        (HYBRID, "Hello", True, None, True, True, "as asked"),
        (HYBRID, "Hello", False, None, False, False, "as asked"),
        (HYBRID, "Hello /no_think", None, None, None, False, "/no_think in the prompt"),
        (HYBRID, "Hello /think", None, None, None, True, "/think in the prompt"),
        (HYBRID, "Hello /think", False, None, False, False, "as asked"),
        (HYBRID, "Hello", None, 64, True, True, "as asked"),
        (HYBRID, "Hello", True, 0, False, False, "a thinking budget of 0"),
        (OFF_BY_DEFAULT, "Hello", None, None, None, False, "the model's default"),
        (OFF_BY_DEFAULT, "Hello", None, 64, True, True, "as asked"),
        (ALWAYS, "Hello /no_think", None, None, None, True, "the model always thinks"),
        (NEVER, "Hello", None, None, None, False, "the model does not think"),
    ],
)
def test_modes(
    can: TemplateCapabilities,
    text: str,
    wanted: bool | None,
    budget: int | None,
    switch: bool | None,
    thinking: bool,
    why: str,
) -> None:
    mode = thinking_mode(can, [Message("user", text)], wanted, budget)
    assert (mode.switch, mode.thinking, mode.why, mode.notes) == (switch, thinking, why, ())


@pytest.mark.parametrize(
    ("can", "wanted", "budget", "notes"),
    [
        (NEVER, True, None, ("the model does not think: --think is ignored",)),
        (NEVER, None, 0, ("the model does not think: --think-budget is ignored",)),
        (ALWAYS, False, 5, ("the model always thinks: --no-think is ignored",)),
        (HYBRID, False, 5, ("thinking is off: --think-budget is ignored",)),
        (HYBRID, False, 0, ()),
    ],
)
def test_what_has_no_effect_is_said(
    can: TemplateCapabilities, wanted: bool | None, budget: int | None, notes: tuple[str, ...]
) -> None:
    assert thinking_mode(can, [Message("user", "Hello")], wanted, budget).notes == notes


def test_a_block_is_opened_where_a_budget_or_a_grammar_needs_a_known_beginning() -> None:
    plain = thinking_mode(HYBRID, [], None, None)
    assert plain.opened("…assistant\n", has_grammar=False) == "…assistant\n"
    assert plain.opened("…assistant\n", has_grammar=True) == "…assistant\n<think>\n"
    budget = thinking_mode(HYBRID, [], None, 9)
    assert budget.opened("…assistant\n", has_grammar=False) == "…assistant\n<think>\n"
    assert thinking_mode(ALWAYS, [], None, 9).opened("…<think>\n", has_grammar=True) == "…<think>\n"
    assert thinking_mode(NEVER, [], None, None).opened("…", has_grammar=True) == "…"
    assert thinking_mode(OTHER_TAGS, [], None, 9).opened("…", has_grammar=True) == "…"


def test_the_block_that_the_engine_gets() -> None:
    mode = thinking_mode(HYBRID, [], None, 9)
    assert mode.block("…<think>\n") == ThinkBlock(True, 9, ENDING)
    assert mode.block("…assistant\n") == ThinkBlock(False, 9, ENDING)
    assert mode.block("…<think>\n\n</think>\n\n") is None
    assert ENDING.endswith("directly now.\n</think>\n\n")


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least 0 tokens, not -1"):
        thinking_mode(HYBRID, [], None, -1)
