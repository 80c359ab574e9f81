"""Prompts to measure with: questions that differ from their first word on, so that no cache of prefixes helps. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

_TASKS = (
    "Write a long story about {}.",
    "Explain {} in detail, step by step.",
    "List ten facts about {}, with a sentence on each.",
    "Describe the history of {} from the beginning until today.",
    "Compare {} with a river, at length.",
    "Write a speech about {} for a school.",
)
TOPICS = (
    "the sea", "photosynthesis", "the city of Rome", "bread", "glaciers", "the bicycle", "prime numbers", "honey bees",
    "volcanoes", "the printing press", "sleep", "the moon", "chess", "steel", "coffee", "whales", "maps", "music",
    "the human heart", "deserts",
)  # fmt: skip


def questions(n_prompts: int, seed: int) -> list[str]:
    """Return so many questions; the number in front makes each unlike the others from its first word on."""
    dice = random.Random(seed)  # noqa: S311 - the same ones every time
    return [
        f"Number {dice.randrange(10**6)}: {dice.choice(_TASKS).format(dice.choice(TOPICS))}" for _ in range(n_prompts)
    ]


def text_of_tokens(n_tokens: int, count: Callable[[str], int], seed: int) -> str:
    """Return a text of at least `n_tokens` tokens and few more.

    Args:
        n_tokens: wanted.
        count: tokens of a text.
        seed: another one gives a text that differs from the first word on.
    """
    pieces = questions(1, seed)
    while (n_now := count(" ".join(pieces))) < n_tokens:
        n_missing = (n_tokens - n_now) * len(pieces) / max(1, n_now)
        pieces += questions(max(1, int(n_missing / 2)), seed + len(pieces))
    return " ".join(pieces)
