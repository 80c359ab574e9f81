"""Which options a command takes from the config file, the environment and a preset, and from where exactly.

    preset named on the command line > QWENCTL_OPTION > [run] > [defaults]

Decides; what is on the command line comes before all of it, which is Click's work (configured_options.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from qwenctl.errors import InvalidRequest
from qwenctl.services.config_file import DEFAULTS, ConfigFile, ConfigValue

MODEL = "model"  # an argument, but it can be configured
CONFIGURED = ("run", "chat", "batch", "serve")

# Options of a single call: what they say makes no sense for all of them.
_OF_ONE_CALL = frozenset(
    {"help", "extract-code", "preset", "continue", "resume", "json", "output", "restart", "retry-errors", "check"}
)
# Switches whose variable has another name, and a meaning that settings.py reads: it wins over the config file.
_VARIABLES = {"session": "QWENCTL_SESSIONS", "history": "QWENCTL_HISTORY", "prompt-cache": "QWENCTL_PREFIX_CACHE"}


@dataclass(frozen=True, slots=True)
class Configured:
    """The value of an option, and what gave it."""

    value: Any
    origin: str  # `path:line`, a variable's name
    by_preset: bool = False


def key_of(option: click.Option) -> str | None:
    """Return what an option is called in the config file: its first long name; None: it cannot be configured."""
    name = next((name[2:] for name in option.opts if name.startswith("--")), None)
    return None if name in _OF_ONE_CALL else name


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options that can be configured, by their keys."""
    found = [(key_of(one), one) for one in command.params if isinstance(one, click.Option)]
    return {key: option for key, option in found if key is not None}


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
    return {name: import_module(main.COMMANDS[name].module).command for name in CONFIGURED}


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
    opposites = _opposites(options)
    for key, value in section.items():
        if key == MODEL or key in options:
            yield key, value
        elif key in opposites and isinstance(value.value, bool):
            yield opposites[key], ConfigValue(not value.value, value.place)
        else:
            if is_shared and foreign is None:
                others = [options_of(command) for command in configurable_commands().values()]
                foreign = {name for found in others for name in (*found, *_opposites(found))}
            if foreign is None or key not in foreign:
                raise _unknown(key, value, {*options, *(foreign or ()), MODEL})


def _opposites(options: Mapping[str, click.Option]) -> dict[str, str]:
    """Return the keys of switches by their opposites: "no-think" → "think"."""
    return {name[2:]: key for key, option in options.items() for name in option.secondary_opts}


def _unknown(key: str, value: ConfigValue, known: set[str]) -> InvalidRequest:
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
