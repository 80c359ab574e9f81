"""The user's config file: sections of named values, each with the line that it stands on.

    [defaults]            options of all commands that run a model
    [run]                 options of one of them: run, chat, batch or serve
    [presets.reviewer]    options that --preset reviewer gives

TOML 1.0 (toml.io). Knows nothing of which options there are.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenctl.errors import InvalidRequest
from qwenctl.settings import Settings

DEFAULTS = "defaults"
PRESETS = "presets"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """One value, and where it is: `path:line`."""

    value: Any
    place: str


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What the file says. One that is not there says nothing."""

    path: Path
    sections: Mapping[str, Mapping[str, ConfigValue]] = field(default_factory=dict)  # keys with dashes
    presets: Mapping[str, Mapping[str, ConfigValue]] = field(default_factory=dict)


def config_path(settings: Settings) -> Path:
    """Return where the user's config file is, or would be."""
    return settings.config_dir / "config.toml"


def read_config(path: Path) -> ConfigFile:
    """Read the file.

    Raises:
        InvalidRequest: it cannot be read, or is no such file; the message names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ConfigFile(path)
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path}: {error.strerror}", "mend its permissions, or move it away"
        ) from error
    if len(data) > _MAX_BYTES:
        raise InvalidRequest(f"{path} is larger than {_MAX_BYTES >> 20} MiB, too large for a config file")
    try:
        text = data.decode()
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{path}: {error}", 'write TOML: ctx = "32k" below a line [defaults]') from error
    return _checked(path, content, _Places(path, text))


class _Places:
    """Where keys stand in the text. Found by their form; tomllib does not say."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[tuple[str, str | None], int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]+", line):
                section = _unquoted(header.group(1))
                self._lines.setdefault((section, None), number)
            elif key := re.match(r"\s*(\"[^\"]+\"|'[^']+'|[\w.-]+)\s*=", line):
                self._lines.setdefault((section, _unquoted(key.group(1))), number)

    def of(self, section: str, key: str | None = None) -> str:
        """Return `path:line`, or the path alone where the line is not known."""
        line = self._lines.get((section, key)) or self._lines.get((section, None)) or self._lines.get(("", section))
        return f"{self._path}:{line}" if line else str(self._path)


def _unquoted(name: str) -> str:
    return re.sub(r"[\"']", "", re.sub(r"\s*\.\s*", ".", name))


def _checked(path: Path, content: Mapping[str, Any], places: _Places) -> ConfigFile:
    sections: dict[str, Mapping[str, ConfigValue]] = {}
    presets: dict[str, Mapping[str, ConfigValue]] = {}
    for name, body in content.items():
        if not isinstance(body, dict):
            raise InvalidRequest(
                f"{places.of('', name)}: {name} stands above the first section", f"write it below [{DEFAULTS}]"
            )
        if name != PRESETS:
            sections[name] = _values(name, body, places)
            continue
        for preset, options in body.items():
            if not isinstance(options, dict):
                place = places.of(PRESETS, preset)
                raise InvalidRequest(f"{place}: the preset {preset} is no section", f"write [{PRESETS}.NAME]")
            presets[preset] = _values(f"{PRESETS}.{preset}", options, places)
    return ConfigFile(path, sections, presets)


def _values(section: str, body: Mapping[str, Any], places: _Places) -> dict[str, ConfigValue]:
    values: dict[str, ConfigValue] = {}
    for key, value in body.items():
        if isinstance(value, dict):
            inner = f"{section}.{key}"
            raise InvalidRequest(
                f"{places.of(inner)}: [{inner}] is no section", "qwenctl config show lists those there are"
            )
        values[key.replace("_", "-")] = ConfigValue(value, places.of(section, key))
    return values
