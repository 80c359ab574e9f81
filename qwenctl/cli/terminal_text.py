"""Text on its way to a terminal: without what could control it, and as lines with styles.

Knows rich; nothing of Markdown and chats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO

from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.segment import Segment

TerminalSize = Callable[[], tuple[int, int]]  # columns, lines
Write = Callable[[str], None]  # writes and flushes

_NARROWEST = 20


def without_controls(text: str) -> str:
    """Return `text` without the control characters that could move the cursor or reprogram the terminal."""
    if text.isprintable():
        return text
    return "".join(char for char in text.expandtabs(4) if char == "\n" or not _is_control(ord(char)))


def _is_control(code: int) -> bool:
    return code < 0x20 or 0x7F <= code < 0xA0


def render_lines(renderable: RenderableType, columns: int) -> list[str]:
    """Return `renderable` as styled lines, without the blanks that rich fills lines up with and blank lines around.

    They are one column narrower than the terminal: a full line leaves the cursor in limbo.
    """
    console = Console(
        file=StringIO(),
        force_terminal=True,
        color_system="standard",
        width=max(_NARROWEST, columns - 1),
        emoji=False,
    )
    lines = [_styled(segments) for segments in console.render_lines(renderable, pad=False)]
    while lines and not lines[-1]:
        lines.pop()
    first = next((index for index, line in enumerate(lines) if line), 0)
    return lines[first:]


def _styled(segments: Sequence[Segment]) -> str:
    kept = list(segments)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return "".join(style.render(text, color_system=ColorSystem.STANDARD) if style else text for text, style, _ in kept)
