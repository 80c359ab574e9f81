"""Which models are here, and which file a name means.

Knows folders and file names; opens a GGUF header only to list it. Converting and loading are other services' work.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from qwenctl.errors import ModelNotFound
from qwenctl.settings import Settings

_SUFFIX = ".gguf"


def list_models(settings: Settings) -> tuple[Path, ...]:
    """Return the converted models, by name."""
    return tuple(sorted(path for path in settings.models_dir.glob(f"*{_SUFFIX}") if path.is_file()))


def find_model(name: str, settings: Settings) -> Path | None:
    """Return the GGUF file that `name` means: a path, or a converted model's name with or without `.gguf`."""
    given = Path(name).expanduser()
    if given.suffix == _SUFFIX and given.is_file():
        return given
    if Path(name).name != name:
        return None
    kept = settings.models_dir / (name if name.endswith(_SUFFIX) else name + _SUFFIX)
    return kept if kept.is_file() else None


def looks_like_path(text: str) -> bool:
    """Tell whether somebody who typed `text` most likely meant a file, not a prompt."""
    if any(char.isspace() for char in text):
        return False
    if text.endswith((_SUFFIX, ".safetensors")) or text.startswith(("/", "./", "../", "~/")):
        return True
    return (Path(text) / "config.json").is_file()


def model_not_found(name: str, settings: Settings) -> ModelNotFound:
    """Return the error for a name that means nothing here, with the step that helps."""
    given = Path(name).expanduser()
    if given.is_dir() and (given / "config.json").is_file():
        hint = f"qwenctl convert {name} {given.name or 'model'}.gguf"
        return ModelNotFound(f"{name} is a Hugging Face checkpoint, not a GGUF file", f"convert it first: {hint}")
    if given.suffix == ".safetensors" and given.is_file():
        hint = f"qwenctl convert {given.parent} {given.parent.resolve().name}.gguf"
        return ModelNotFound(f"{name} is part of a Hugging Face checkpoint, not a GGUF file", f"convert it: {hint}")
    known = [path.stem for path in list_models(settings)]
    near = get_close_matches(name.removesuffix(_SUFFIX), known, 1)
    if near:
        return ModelNotFound(f"no model {name}", f"did you mean {near[0]}?")
    return ModelNotFound(f"no model {name}: neither a GGUF file nor a name in {settings.models_dir}", "qwenctl models")
