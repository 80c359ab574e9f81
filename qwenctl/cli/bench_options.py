"""What the subcommands of `qwenctl bench` have in common: lists of numbers, and the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from quant.durable_files import DurableFiles
from qwenctl.errors import QwenctlError
from qwenctl.services.bench.line_plot import Panel, svg

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them, in ascending order, each once."""

    name = "numbers"

    def __init__(self, most: int) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
            self.fail(f"{value!r} is no list of numbers; write 1,8,32", param, ctx)
        numbers = tuple(sorted({int(part) for part in parts}))
        if not 1 <= numbers[0] <= numbers[-1] <= self._most:
            self.fail(f"numbers must lie between 1 and {self._most:,}", param, ctx)
        return numbers


plot_option = click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw an SVG picture."
)


def write_plot(path: Path | None, panels: Sequence[Panel], caption: str) -> None:
    """Write the picture if one is wanted."""
    if path is not None:
        data = svg(panels, caption).encode()
        try:
            DurableFiles().replace_whole(path, [(0, memoryview(data))], len(data))
        except OSError as error:
            raise QwenctlError(f"cannot write {path}: {error.strerror}") from error
