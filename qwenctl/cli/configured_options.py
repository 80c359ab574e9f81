"""Options that are not on the command line: option_choice.py's, given to Click as defaults.

option on the command line > preset named there > QWENCTL_OPTION > [run] > [defaults] > the program's own default
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from qwenctl.cli.option_choice import MODEL, check_sections, choose_options, key_of, options_of
from qwenctl.services.config_file import config_path, read_config
from qwenctl.settings import Settings

_ASKED_FOR = "qwenctl.preset_keys"

F = TypeVar("F", bound=Callable[..., Any])


def configurable(function: F) -> F:
    """Add `-p/--preset`, and let all options of the command be configured. Stands above all other options.

    A switch gets an opposite, --no-stats for --stats: what the config file switches on, the command line must be able
    to switch off.
    """
    for parameter in getattr(function, "__click_params__", ()):
        if isinstance(parameter, click.Option) and parameter.is_bool_flag and not parameter.secondary_opts:
            key = key_of(parameter)
            if key is not None:
                parameter.secondary_opts.append(f"--no-{key}")
    return click.option(
        "-p",
        "--preset",
        metavar="NAME",
        is_eager=True,  # before the options that it gives
        expose_value=False,
        callback=_configure,
        help="Use the options below [presets.NAME] in the config file.",
    )(function)


def was_asked_for(key: str) -> bool:
    """Tell whether the option was given for this call: on the command line, or by a preset that was named there."""
    context = click.get_current_context()
    if key in context.meta.get(_ASKED_FOR, ()):
        return True
    option = options_of(context.command).get(key)
    source = click.core.ParameterSource.COMMANDLINE
    return option is not None and context.get_parameter_source(option.name or "") is source


def _configure(context: click.Context, _: click.Parameter, preset: str | None) -> None:
    if context.resilient_parsing:
        return
    settings: Settings = context.obj
    config = read_config(config_path(settings))
    check_sections(config)
    chosen = choose_options(context.command, config, settings.own_variables, preset)
    options = options_of(context.command)
    context.default_map = {
        options[key].name or key: configured.value for key, configured in chosen.items() if key in options
    }
    context.meta[_ASKED_FOR] = frozenset(key for key, configured in chosen.items() if configured.by_preset)
    if MODEL in chosen:
        context.obj = replace(settings, model=str(chosen[MODEL].value))
