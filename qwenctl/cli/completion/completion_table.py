"""What can follow a command, as values: its commands, options, and the kinds of its words. Knows no shell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import click

from quant.recipe import OUTPUT_TYPES
from qwenctl.cli.command_tree import root_context, walk
from qwenctl.cli.options import AnyCase

# models, presets, sessions and templates are asked for when somebody presses Tab: `qwenctl completion --values models`
Kind = Literal["choices", "models", "presets", "sessions", "templates", "files", "nothing"]

_FILE_WORDS = frozenset({"FILE", "PATH", "GLOB", "SRC", "OUT", "IN", "TEXT"})


@dataclass(frozen=True, slots=True)
class Value:
    """What a word may be."""

    kind: Kind
    choices: tuple[str, ...] = ()
    or_files: bool = False


@dataclass(frozen=True, slots=True)
class OptionWords:
    """An option: its names, the value that follows, None for a switch, and one line about it."""

    names: tuple[str, ...]
    value: Value | None
    summary: str


@dataclass(frozen=True, slots=True)
class CommandWords:
    """What can follow the command `path`, its words without the program's name."""

    path: str
    commands: tuple[tuple[str, str], ...]  # names and summaries
    options: tuple[OptionWords, ...]
    words: tuple[Value, ...]  # of its arguments, in any order

    @property
    def place(self) -> str:
        """The path as the scripts gather it from a command line: /models/ls; "" for the program itself."""
        return "".join(f"/{word}" for word in self.path.split())


def completion_table(cli: click.Group) -> tuple[CommandWords, ...]:
    """Return an entry for the program itself and for each of its commands."""
    root = root_context(cli)
    return (_entry("", cli, root), *(_entry(_below(path), command, inner) for path, command, inner in walk(cli, root)))


def _below(path: str) -> str:
    return path.partition(" ")[2]


def _entry(path: str, command: click.Command, context: click.Context) -> CommandWords:
    commands: list[tuple[str, str]] = []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            commands.append((name, inner.get_short_help_str(120) if inner else ""))
    parameters = command.get_params(context)
    options = [_option(one, path) for one in parameters if isinstance(one, click.Option) and not one.hidden]
    words = [_value(one, path) for one in parameters if isinstance(one, click.Argument)]
    return CommandWords(path, tuple(commands), tuple(options), tuple(words))


def _option(option: click.Option, path: str) -> OptionWords:
    names = (*option.opts, *option.secondary_opts)
    summary = re.split(r"(?<=[.;:])\s", option.help or "", maxsplit=1)[0].rstrip(".;:")
    return OptionWords(names, None if option.is_flag or option.count else _value(option, path), summary)


def _value(parameter: click.Parameter, path: str) -> Value:
    """Return what a parameter's value may be, by its type, and by the word that stands for it in the usage line."""
    choices = _choices(parameter)
    if choices:
        return Value("choices", choices)
    words = set(re.findall(r"[A-Z]+", parameter.metavar or ""))
    kinds: tuple[tuple[bool, Value], ...] = (
        (parameter.name == "preset", Value("presets")),
        (parameter.name == "template", Value("templates", or_files=True)),
        ("ID" in words, Value("sessions")),
        (path.startswith("models ") and "NAME" in words, Value("models")),
        ("MODEL" in words, Value("models", or_files=True)),
        (parameter.name == "system", Value("nothing")),
        (bool(words & _FILE_WORDS) or isinstance(parameter.type, click.Path), Value("files")),
    )
    return next((value for fits, value in kinds if fits), Value("nothing"))


def _choices(parameter: click.Parameter) -> tuple[str, ...]:
    if isinstance(parameter.type, click.Choice):
        return tuple(map(str, parameter.type.choices))
    if isinstance(parameter.type, AnyCase):
        return parameter.type.names
    return tuple(OUTPUT_TYPES) if parameter.name == "quant" else ()
