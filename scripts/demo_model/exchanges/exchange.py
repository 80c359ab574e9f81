"""One question and its answer, and the register of functions that make them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer. `follow_ups` are short further questions that make sense only after this one."""

    user: str
    reasoning: str
    answer: str
    short: str = ""
    follow_ups: tuple["Exchange", ...] = ()


Maker = Callable[[Random], Exchange]
MAKERS: list[tuple[float, Maker]] = []
"""(relative frequency, function)"""


def exchange(weight: float) -> Callable[[Maker], Maker]:
    """Register a maker of exchanges; `weight` is its relative frequency."""

    def register(maker: Maker) -> Maker:
        MAKERS.append((weight, maker))
        return maker

    return register


def a(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]
