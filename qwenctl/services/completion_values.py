"""What a Tab may complete to, found without opening anything: names of models, presets, templates, saved chats.

Meant to be fast, and silent: a folder that is not there or a file with a mistake has no names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from qwenctl.errors import QwenctlError
from qwenctl.services.config_file import config_path, read_config
from qwenctl.services.demo_file import DEMO_NAME
from qwenctl.services.prompt_template import template_names, templates_folder
from qwenctl.services.session_choice import open_store
from qwenctl.services.session_store import SessionQuery
from qwenctl.services.split_files import first_files, model_name
from qwenctl.settings import Settings

_N_SESSIONS = 30
_PLAIN = re.compile(r"[\w@%+:,./][\w@%+:,./=-]*")


def completion_values(kind: str, settings: Settings) -> list[tuple[str, str]]:
    """Return (word, description or "") pairs; words that a shell would have to quote are left out."""
    try:
        found = FINDERS[kind](settings)
    except (QwenctlError, OSError):
        return []
    return [(word, " ".join(about.split())) for word, about in found if _PLAIN.fullmatch(word)]


def _models(settings: Settings) -> list[tuple[str, str]]:
    names = [model_name(path) for path in first_files(settings.models_dir)]
    return [*((name, "") for name in names), (DEMO_NAME, "the bundled one")]


def _presets(settings: Settings) -> list[tuple[str, str]]:
    presets = read_config(config_path(settings)).presets
    return [(name, ", ".join(values)) for name, values in presets.items()]


def _sessions(settings: Settings) -> list[tuple[str, str]]:
    heads = open_store(settings).heads(SessionQuery(limit=_N_SESSIONS))
    return [(head.session_id, head.title) for head in heads]


def _templates(settings: Settings) -> list[tuple[str, str]]:
    return [(name, "") for name in template_names(templates_folder(settings))]


FINDERS: Mapping[str, Callable[[Settings], list[tuple[str, str]]]] = {
    "models": _models,
    "presets": _presets,
    "sessions": _sessions,
    "templates": _templates,
}
