"""Options that are not on the command line: from the config file, the environment and presets, by Click's defaults.

    option on the command line > preset named there > QWENCTL_OPTION > [run] > [defaults] > the program's own default

Where each value comes from is a value of its own, so that `qwenctl config show` says what a command would use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

import click

from qwenctl.errors import InvalidRequest
from qwenctl.services.config_file import DEFAULTS, ConfigFile, ConfigValue, read_config
from qwenctl.settings import Settings

CONFIG_FILE = "config.toml"
MODEL = "model"  # an argument, but it can be configured
CONFIGURED = ("run", "chat", "batch", "serve")

# Options of a single call: what they say makes no sense for all of them.
_OF_ONE_CALL = frozenset(
    {"help", "extract-code", "preset", "continue", "resume", "json", "output", "restart", "retry-errors", "check"}
)
# Switches that have had a variable of their own, with another name.
_VARIABLES = {
    "no-session": "QWENCTL_SESSIONS",
    "no-history": "QWENCTL_HISTORY",
    "no-prompt-cache": "QWENCTL_PREFIX_CACHE",
}
_ASKED_FOR = "qwenctl.preset_keys"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Configured:
    """The value of an option, and what gave it."""

    value: Any
    origin: str  # `path:line`, a variable's name
    by_preset: bool = False


def configurable(function: F) -> F:
    """Add `-p/--preset`, and let all options of the command be configured. Stands above all other options."""
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


def load_config(settings: Settings) -> ConfigFile:
    """Return what the user's config file says."""
    return read_config(settings.config_dir / CONFIG_FILE)


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options that can be configured, by their first long name, without its dashes."""
    options = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = [name[2:] for name in parameter.opts if name.startswith("--")]
            if names and names[0] not in _OF_ONE_CALL:
                options[names[0]] = parameter
    return options


def choose_options(
    command: click.Command, config: ConfigFile, variables: Mapping[str, str], preset: str | None = None
) -> dict[str, Configured]:
    """Return the options of `command` that are not left to their defaults, and `model`.

    Args:
        command: one that is `configurable`.
        config: what the file says.
        variables: the environment's own, by name.
        preset: the name of one.

    Raises:
        InvalidRequest: a key that no command has, a value that makes no sense, or no such preset; with file and line.
    """
    options = options_of(command)
    sections: list[Mapping[str, ConfigValue]] = [
        config.sections.get(DEFAULTS, {}),
        config.sections.get(command.name or "", {}),
    ]
    chosen: dict[str, Configured] = {}
    for section, is_shared in zip(sections, (True, False), strict=True):
        for key, value in _known(section, options, is_shared=is_shared):
            if _VARIABLES.get(key) not in variables:
                chosen[key] = Configured(_as_typed(options.get(key), key, value), value.place)
    for key in (MODEL, *options):
        name = variable_of(key)
        if name in variables:
            option, text = options.get(key), variables[name]
            chosen[key] = Configured((text,) if option is not None and option.multiple else text, name)
    for key, value in _known(_preset(config, preset), options, is_shared=True):
        chosen[key] = Configured(_as_typed(options.get(key), key, value), value.place, by_preset=True)
    for key, configured in chosen.items():
        _check(options.get(key), key, configured)
    return chosen


def variable_of(key: str) -> str:
    """Return the name of the environment variable of an option."""
    return "QWENCTL_" + key.upper().replace("-", "_")


def configurable_commands() -> dict[str, click.Command]:
    """Import and return the commands that can be configured, by name."""
    main = import_module("qwenctl.cli.main")  # which imports this module's users
    commands = {}
    for name in CONFIGURED:
        if name in main.COMMANDS:
            commands[name] = import_module(main.COMMANDS[name].module).command
    return commands


def check_sections(config: ConfigFile) -> None:
    """Refuse sections that no command has.

    Raises:
        InvalidRequest: there is one; its line, and the nearest name that there is.
    """
    names = (DEFAULTS, *CONFIGURED)
    for name, section in config.sections.items():
        if name not in names:
            place = next((value.place for value in section.values()), str(config.path))
            near = get_close_matches(name, (*names, "presets"), 1)
            hint = f"did you mean [{near[0]}]?" if near else f"there are [{'], ['.join(names)}] and [presets.NAME]"
            raise InvalidRequest(f"{place}: no section [{name}] is known", hint)


def _configure(context: click.Context, _: click.Parameter, preset: str | None) -> None:
    if context.resilient_parsing:
        return
    settings: Settings = context.obj
    config = load_config(settings)
    check_sections(config)
    chosen = choose_options(context.command, config, settings.own_variables, preset)
    options = options_of(context.command)
    context.default_map = {
        options[key].name or key: configured.value for key, configured in chosen.items() if key in options
    }
    context.meta[_ASKED_FOR] = frozenset(key for key, configured in chosen.items() if configured.by_preset)
    if MODEL in chosen:
        context.obj = replace(settings, model=str(chosen[MODEL].value))


def _preset(config: ConfigFile, name: str | None) -> Mapping[str, ConfigValue]:
    if name is None:
        return {}
    if name not in config.presets:
        near = get_close_matches(name, config.presets, 1)
        hint = f"did you mean {near[0]}?" if near else f"write [presets.{name}] in {config.path}"
        raise InvalidRequest(f"no preset {name}", hint)
    return config.presets[name]


def _known(
    section: Mapping[str, ConfigValue], options: Mapping[str, click.Option], *, is_shared: bool
) -> Iterator[tuple[str, ConfigValue]]:
    """Yield the values that `options` have; what another command has is passed over where the section `is_shared`."""
    foreign: set[str] | None = None
    for key, value in section.items():
        if key == MODEL or key in options:
            yield key, value
            continue
        if is_shared and foreign is None:
            foreign = {name for command in configurable_commands().values() for name in options_of(command)}
        if foreign is None or key not in foreign:
            raise _unknown(key, value, {*options, *(foreign or ()), MODEL}, options)


def _unknown(key: str, value: ConfigValue, known: set[str], options: Mapping[str, click.Option]) -> InvalidRequest:
    for name, option in options.items():
        if f"--{key}" in option.secondary_opts:
            return InvalidRequest(f"{value.place}: no option {key} can be configured", f"write {name} = false")
    if key in _OF_ONE_CALL:
        return InvalidRequest(f"{value.place}: {key} cannot be configured", f"give --{key} on the command line")
    near = get_close_matches(key, sorted(known), 1)
    hint = f"did you mean {near[0]}?" if near else "qwenctl config show --all says which there are"
    return InvalidRequest(f"{value.place}: no option {key}", hint)


def _check(option: click.Option | None, key: str, configured: Configured) -> None:
    """Refuse a value that the option would refuse, here, where its place is known."""
    value, place = configured.value, configured.origin
    if option is None:
        return
    try:
        option.type_cast_value(click.Context(click.Command(key)), value)
    except click.BadParameter as error:
        raise InvalidRequest(f"{place}: {key}: {error.message}", "qwenctl config show lists what is set") from error


def _as_typed(option: click.Option | None, key: str, value: ConfigValue) -> Any:
    """Return a TOML value as Click wants it: as text, as it would be typed; a switch as true or false.

    Raises:
        InvalidRequest: it is of the wrong kind.
    """
    raw = value.value
    if isinstance(raw, bool) is not bool(option is not None and option.is_flag):
        wanted = "a value, not true or false" if isinstance(raw, bool) else f"true or false: {key} = true"
        raise InvalidRequest(f"{value.place}: {key} is {raw!r}", f"write {wanted}")
    if isinstance(raw, bool):
        return raw
    if option is not None and option.multiple:
        return tuple(str(item) for item in raw) if isinstance(raw, list) else (str(raw),)
    return ",".join(str(item) for item in raw) if isinstance(raw, list) else str(raw)
