"""The colours of a chat: for dark and for light terminals, or none at all.

Only the terminal's own sixteen colours are used, so that they fit what its user has chosen. Knows rich's names for the
parts of Markdown; nothing of what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_PLAIN = {
    "markdown.h1": "bold underline",
    "markdown.h2": "bold underline",
    "markdown.h3": "bold",
    "markdown.h4": "bold italic",
    "markdown.h5": "italic",
    "markdown.h6": "italic",
    "markdown.code": "bold",
    "markdown.block_quote": "italic",
    "markdown.list": "none",
    "markdown.item.bullet": "bold",
    "markdown.item.number": "bold",
    "markdown.hr": "dim",
    "markdown.link": "underline",
    "markdown.link_url": "underline",
    "markdown.table.border": "dim",
    "markdown.table.header": "bold",
}


@dataclass(frozen=True, slots=True)
class Theme:
    """Styles as rich writes them."""

    name: str
    markdown: Mapping[str, str]
    code: str | None  # pygments' theme for highlighted code; None: code is not highlighted
    prompt: str  # as prompt_toolkit writes styles
    high: str  # the context is filling up
    full: str  # it is all but full


THEMES: Mapping[str, Theme] = MappingProxyType(
    {
        "dark": Theme(
            name="dark",
            markdown=_PLAIN
            | {
                "markdown.h1": "bold underline bright_blue",
                "markdown.h2": "bold bright_blue",
                "markdown.h3": "bold bright_blue",
                "markdown.code": "cyan",
                "markdown.link": "bright_blue",
                "markdown.link_url": "underline bright_blue",
            },
            code="ansi_dark",
            prompt="ansigreen bold",
            high="ansiyellow",
            full="ansibrightred bold",
        ),
        "light": Theme(
            name="light",
            markdown=_PLAIN
            | {
                "markdown.h1": "bold underline blue",
                "markdown.h2": "bold blue",
                "markdown.h3": "bold blue",
                "markdown.code": "magenta",
                "markdown.link": "blue",
                "markdown.link_url": "underline blue",
            },
            code="ansi_light",
            prompt="ansiblue bold",
            high="ansired",
            full="ansired bold",
        ),
        "none": Theme(name="none", markdown=_PLAIN, code=None, prompt="bold", high="bold", full="bold reverse"),
    }
)
DARK = THEMES["dark"]
