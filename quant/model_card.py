"""What the README.md of a checkpoint says about it: licence, base models, languages and tags, from its front matter.

The front matter is YAML; read are its top-level keys with plain values and plain lists, which is what model cards hold.
Everything is a string, so the language `no` stays Norwegian. A card is never a reason to fail: what cannot be read is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_MAX_BYTES = 256 << 10  # of the README; front matter stands first
_MAX_VALUES = 256
_KEY = re.compile(r"([A-Za-z_][\w-]*):(?:\s+(.*))?$")


def read_model_card(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Return the values of each key; a single value is a tuple of one. Empty without README.md or front matter."""
    path = folder / "README.md"
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    return _parse(lines[1:])


def _parse(lines: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.strip() == "---":
            break
        match = _KEY.match(line)
        if match:
            current = found.setdefault(match.group(1), [])
            current += _values(match.group(2) or "")
        elif line.lstrip().startswith("- ") and ": " not in line:  # an item; those of objects are left out
            current += _values(line.lstrip()[2:])
    return {key: tuple(values[:_MAX_VALUES]) for key, values in found.items() if values}


def _values(text: str) -> list[str]:
    """Return what stands behind a key or a dash: nothing, one value, or a list in brackets."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [value for part in text[1:-1].split(",") for value in _values(part)]
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        return [text[1:-1]]
    text = re.sub(r"(^|\s)#.*$", "", text).strip()
    return [text] if text and text[0] not in "|>{&*" else []
