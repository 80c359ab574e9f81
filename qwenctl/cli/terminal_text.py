"""Styled lines for a terminal, drawn by rich. Knows nothing of Markdown and chats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO

from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.segment import Segment

TerminalSize = Callable[[], tuple[int, int]]  # columns, lines
Write = Callable[[str], None]  # writes and flushes

_NARROWEST = 20


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
