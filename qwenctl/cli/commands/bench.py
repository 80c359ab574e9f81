"""`qwenctl bench`: how fast a model is here, and a server."""

from __future__ import annotations

import click

from qwenctl.cli.command import CommandGroup
from qwenctl.cli.lazy_group import Entry

_FOLDER = "qwenctl.cli.bench_commands"
_COMMANDS = {
    "run": Entry("Measure", f"{_FOLDER}.run", "Measure a model by itself: prompts, answers, time to the first token."),
    "serve": Entry("Measure", f"{_FOLDER}.serve", "Measure a server with one to many requests at a time."),
}


@click.group(
    "bench",
    cls=CommandGroup,
    entries=_COMMANDS,
    examples=["qwenctl bench run qwen3-30b", "qwenctl bench serve qwen3-30b --plot curve.svg"],
)
def command() -> None:
    """Measure how fast a model is on this machine, or a server anywhere."""
