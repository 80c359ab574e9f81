"""Whether the tools of a request may, must or must not be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ToolMode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What is to be done with the tools."""

    mode: ToolMode = "auto"
    name: str | None = None  # with "required": this one
    parallel: bool = True  # whether one reply may hold several calls
