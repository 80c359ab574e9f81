"""A file of tools for tests."""

from __future__ import annotations

import json as _json
import sys
import time
from typing import Literal


def get_weather(city: str, unit: Literal["C", "F"] = "C", days: int = 1) -> dict[str, object]:
    """Get the weather of a city.

    Looks at the sky.

    Args:
        city: name of the city,
            in English.
        days (int): how many

    Returns:
        what it sees
    """
    return {"city": city, "unit": unit, "days": days}


def say(words: list[str], loud: bool | None = None):
    sys.stdout.write(f"{' '.join(words)} {loud}")


async def later(x: float) -> str:
    """Answer later."""
    return f"{x * 2}"


def fail() -> None:
    raise LookupError("nothing there")


def leave() -> None:
    raise SystemExit(3)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


def flood(n: int) -> str:
    return "x" * n


def die() -> None:
    import os

    os._exit(9)


def _hidden() -> str:
    return _json.dumps(1)
