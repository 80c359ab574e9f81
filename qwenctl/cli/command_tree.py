"""All commands of the program with their full names, for what is written from them: README, man page, completion.

Walking imports every command's module, which takes a second or two.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

WIDTH = 100


def walk(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command below `group` with its full name and a context that can write its help.

    Through `list_commands` and `get_command`: the group loads its commands lazily.
    """
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            raise AssertionError(f"{name} is listed but not there")
        inner = click.Context(command, info_name=name, parent=context, **command.context_settings)
        inner.max_content_width = inner.terminal_width = WIDTH
        yield inner.command_path, command, inner
        if isinstance(command, click.Group):
            yield from walk(command, inner)


def root_context(cli: click.Command) -> click.Context:
    """Return a context for the whole program, as if it had been started by its name."""
    context = click.Context(cli, info_name="qwenctl", **cli.context_settings)
    context.max_content_width = context.terminal_width = WIDTH
    return context
