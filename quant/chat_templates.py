"""The chat templates of a checkpoint, by name. Source text only: nothing is rendered here.

Four places are in use. Files beside the tokenizer win over tokenizer_config.json, as in transformers:

    chat_template.jinja                       the default
    additional_chat_templates/NAME.jinja      others, only beside chat_template.jinja
    chat_template.json                        {"chat_template": …}, of older processors
    tokenizer_config.json, "chat_template"    a string, or a list of {"name": …, "template": …}
"""

from __future__ import annotations

from pathlib import Path

from quant.json_fields import JsonFields
from quant.json_file import read_json_object
from quant.text_file import read_text_file

DEFAULT = "default"
_MAX_TEMPLATE_BYTES = 1 << 20
_MAX_JSON_BYTES = 16 << 20
_MAX_TEMPLATES = 64


def read_chat_templates(folder: Path) -> dict[str, str]:
    """Return the templates by name, the one called "default" first; none is an empty dictionary.

    Raises:
        FileFormatError: a file that is malformed or too long.
    """
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        others = sorted((folder / "additional_chat_templates").glob("*.jinja"))[:_MAX_TEMPLATES]
        named = {path.stem: read_text_file(path, _MAX_TEMPLATE_BYTES) for path in others}
        return {DEFAULT: read_text_file(jinja, _MAX_TEMPLATE_BYTES)} | named
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists():
            found = _from_json(JsonFields(path, read_json_object(path, _MAX_JSON_BYTES)))
            if found:
                return found
    return {}


def _from_json(fields: JsonFields) -> dict[str, str]:
    value = fields.raw("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    named = {entry.text("name"): entry.text("template") for entry in fields.children("chat_template")[:_MAX_TEMPLATES]}
    return {name: named[name] for name in sorted(named, key=lambda name: (name != DEFAULT, name))}
