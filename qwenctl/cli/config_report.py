"""What is configured, as a table and as JSON: folders, options of each command, presets."""

from __future__ import annotations

from typing import Any

import click

from qwenctl.cli.option_choice import (
    MODEL,
    Configured,
    check_sections,
    choose_options,
    configurable_commands,
    options_of,
)
from qwenctl.cli.output import Output
from qwenctl.services.config_file import ConfigFile, config_path, read_config
from qwenctl.services.prompt_template import template_names, templates_folder
from qwenctl.settings import Settings

_DEFAULT = "default"


def print_config(name: str | None, preset: str | None, settings: Settings, output: Output, *, everything: bool) -> None:
    """Check the whole config file, and write what the command `name`, None for all, would use.

    Raises:
        InvalidRequest: the file has a mistake, or there is no such preset.
    """
    config = read_config(config_path(settings))
    check_sections(config)
    commands = configurable_commands()
    chosen = {key: choose_options(command, config, settings.own_variables, preset) for key, command in commands.items()}
    for command in commands.values():
        for other in config.presets:  # to check them
            choose_options(command, config, settings.own_variables, other)
    if name is not None:
        commands = {name: commands[name]}
    rows = {key: _rows(command, chosen[key], everything=everything) for key, command in commands.items()}
    if output.json_mode:
        output.data(_document(config, rows, settings))
        return
    output.table(("folder", "path", "from"), _folders(settings))
    lines = [(key, option, _shown(option, one.value), one.origin) for key in rows for option, one in rows[key].items()]
    output.line()
    if lines:
        output.table(("command", "option", "value", "from"), lines)
    else:
        output.line("no option is configured")
    output.line()
    output.fields(
        [
            ("presets", ", ".join(config.presets) or "none"),
            ("templates", ", ".join(template_names(templates_folder(settings))) or "none"),
        ]
    )


def _rows(command: click.Command, chosen: dict[str, Configured], *, everything: bool) -> dict[str, Configured]:
    if not everything:
        return chosen
    unset = {MODEL: Configured(None, _DEFAULT)}
    for key, option in options_of(command).items():
        is_said = isinstance(option.default, bool | int | float | str)  # else: chosen when the command runs
        unset[key] = Configured(option.default if is_said else None, _DEFAULT)
    return unset | chosen


def _folders(settings: Settings) -> list[tuple[str, str, str]]:
    rows = [
        ("config", str(config_path(settings)), "XDG_CONFIG_HOME"),
        ("data", str(settings.data_dir), "XDG_DATA_HOME"),
        ("models", str(settings.models_dir), "QWENCTL_MODELS"),
        ("cache", str(settings.cache_dir), "XDG_CACHE_HOME"),
    ]
    return [(name, path, variable if variable in settings.variables else _DEFAULT) for name, path, variable in rows]


def _document(config: ConfigFile, rows: dict[str, dict[str, Configured]], settings: Settings) -> dict[str, Any]:
    return {
        "folders": {name: {"path": path, "from": origin} for name, path, origin in _folders(settings)},
        "commands": {
            command: {key: {"value": _secret(key, one.value), "from": one.origin} for key, one in options.items()}
            for command, options in rows.items()
        },
        "presets": {
            name: {key: {"value": _secret(key, value.value), "from": value.place} for key, value in values.items()}
            for name, values in config.presets.items()
        },
        "templates": template_names(templates_folder(settings)),
    }


def _shown(key: str, value: Any) -> str:
    value = _secret(key, value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _secret(key: str, value: Any) -> Any:
    return "(hidden)" if key.endswith("key") and value is not None else value
