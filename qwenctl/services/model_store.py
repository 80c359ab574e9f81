"""Which models are here, and which file a name means.

MODEL is a GGUF file, the name of a converted model in the models folder, or nothing for the bundled demo. Knows folders
and file names; opening and loading are other services' work.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from quant.errors import QuantError
from quant.gguf_read import read_gguf
from quant.recipe import OUTPUT_TYPES
from qwenctl.errors import ModelNotFound
from qwenctl.services.demo_file import DEMO_NAME, converted_demo
from qwenctl.settings import Settings

_SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be named."""

    name: str
    path: Path
    n_bytes: int
    output_type: str | None  # None: the file does not say, or cannot be read
    problem: str | None = None  # why it cannot be read


def list_models(settings: Settings) -> tuple[StoredModel, ...]:
    """Return the converted models, by name, and the demo if it has been converted."""
    stored = [_look_at(path.stem, path) for path in _converted(settings)]
    demo = converted_demo(settings)
    if demo is not None and all(model.name != DEMO_NAME for model in stored):
        stored.append(_look_at(DEMO_NAME, demo))
    return tuple(stored)


def _converted(settings: Settings) -> list[Path]:
    return sorted(path for path in settings.models_dir.glob(f"*{_SUFFIX}") if path.is_file())


def _look_at(name: str, path: Path) -> StoredModel:
    n_bytes = path.stat().st_size
    try:
        number = read_gguf(path).metadata.get("general.file_type")
    except QuantError as error:
        return StoredModel(name, path, n_bytes, None, error.message)
    return StoredModel(
        name, path, n_bytes, next((key for key, kind in OUTPUT_TYPES.items() if kind.ftype_id == number), None)
    )


def find_model(name: str, settings: Settings) -> Path | None:
    """Return the GGUF file that `name` means: a path, or a converted model's name with or without `.gguf`."""
    given = Path(name).expanduser()
    if given.suffix == _SUFFIX and given.is_file():
        return given
    if Path(name).name != name:
        return None
    kept = settings.models_dir / (name if name.endswith(_SUFFIX) else name + _SUFFIX)
    if kept.is_file():
        return kept
    return converted_demo(settings) if name == DEMO_NAME else None


def is_model(name: str, settings: Settings) -> bool:
    """Tell whether `name` means a model that is here."""
    return name == DEMO_NAME or find_model(name, settings) is not None


def locate_model(name: str | None, settings: Settings) -> Path | None:
    """Return the GGUF file that MODEL means; None for the demo when it has not been converted yet.

    Raises:
        ModelNotFound: no file and no model of that name; a checkpoint that is not converted.
    """
    if name is None or name == DEMO_NAME:
        return find_model(DEMO_NAME, settings) if name else converted_demo(settings)
    found = find_model(name, settings)
    if found is None:
        raise model_not_found(name, settings)
    return found


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
        hint = f"qwenctl convert {name} {given.resolve().name}"
        return ModelNotFound(f"{name} is a Hugging Face checkpoint, not a GGUF file", f"convert it: {hint}")
    if given.suffix == ".safetensors" and given.is_file():
        hint = f"qwenctl convert {given.parent} {given.parent.resolve().name}"
        return ModelNotFound(f"{name} is part of a Hugging Face checkpoint, not a GGUF file", f"convert it: {hint}")
    known = [path.stem for path in _converted(settings)]
    near = get_close_matches(name.removesuffix(_SUFFIX), known, 1)
    if near:
        return ModelNotFound(f"no model {name}", f"did you mean {near[0]}?")
    message = f"no model {name}: neither a GGUF file nor a name in {settings.models_dir}"
    return ModelNotFound(message, "qwenctl models lists what is there")
