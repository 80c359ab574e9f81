"""Which models are here, and which file a name means.

MODEL is a GGUF file, the name of a model in the models folder, the name that it was pulled by, or nothing for the one
in the user's settings, the default one, or the bundled demo: the first that there is. Knows folders and file names;
opening and loading are other services' work.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from quant.errors import JsonFileError, QuantError
from quant.gguf_read import read_gguf
from quant.recipe import OUTPUT_TYPES
from qwenctl.errors import InvalidRequest, ModelNotFound
from qwenctl.services.default_model import read_default
from qwenctl.services.demo_file import DEMO_NAME, converted_demo
from qwenctl.services.hub.model_names import parse_name
from qwenctl.services.model_origin import Origin, find_asked, read_origin
from qwenctl.services.split_files import SUFFIX, first_files, model_files, model_name
from qwenctl.services.typed_path import is_file, typed_path
from qwenctl.settings import Settings


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be named. `path` is its first file."""

    name: str
    path: Path
    n_files: int
    n_bytes: int
    n_linked_bytes: int  # of them, those that lie elsewhere: in the Hugging Face cache
    output_type: str | None  # None: the file does not say, or cannot be read
    origin: Origin | None = None  # None: made here, or nothing is known
    problem: str | None = None  # why it cannot be read


def list_models(settings: Settings) -> tuple[StoredModel, ...]:
    """Return the models, by name, and the demo if it has been converted."""
    stored = [look_at(path) for path in first_files(settings.models_dir)]
    demo = converted_demo(settings)
    if demo is not None and all(model.name != DEMO_NAME for model in stored):
        stored.append(look_at(demo, DEMO_NAME))
    return tuple(stored)


def look_at(path: Path, name: str | None = None) -> StoredModel:
    """Return what can be told of a model from its files' lengths, its header and its record."""
    parts = model_files(path)
    n_bytes = {part: part.stat().st_size for part in parts if part.is_file()}
    n_linked_bytes = sum(n for part, n in n_bytes.items() if part.is_symlink())
    output_type, origin, problem = None, None, None
    try:
        number = read_gguf(path).metadata.get("general.file_type")
        output_type = next((key for key, kind in OUTPUT_TYPES.items() if kind.ftype_id == number), None)
    except QuantError as error:
        problem = error.message
    try:
        origin = read_origin(path)
    except JsonFileError as error:
        problem = problem or error.message
    if path.is_symlink() and not path.exists():
        problem = f"{path}: its file in the Hugging Face cache is gone; pull it again"
    name = name or model_name(path)
    return StoredModel(name, path, len(parts), sum(n_bytes.values()), n_linked_bytes, output_type, origin, problem)


def find_model(name: str, settings: Settings) -> Path | None:
    """Return the GGUF file that `name` means: a path, a model's name with or without `.gguf`, or what it was pulled by.

    Of a split set that is its first file.
    """
    given = typed_path(name)
    if given.suffix == SUFFIX and is_file(given):
        return given
    if Path(name).name == name:
        kept = settings.models_dir / (name if name.endswith(SUFFIX) else name + SUFFIX)
        if is_file(kept):
            return kept
        first = sorted(settings.models_dir.glob(f"{glob.escape(name)}-00001-of-[0-9][0-9][0-9][0-9][0-9]{SUFFIX}"))
        if first:
            return first[0]
        if name == DEMO_NAME:
            return converted_demo(settings)
    return find_asked(settings.models_dir, name) if _may_be_pulled(name) else None


def is_model(name: str, settings: Settings) -> bool:
    """Tell whether `name` means a model that is here."""
    return name == DEMO_NAME or find_model(name, settings) is not None


def locate_model(name: str | None, settings: Settings) -> Path | None:
    """Return the GGUF file that MODEL means; None for the demo when it has not been converted yet.

    Raises:
        ModelNotFound: no file and no model of that name; a checkpoint that is not converted.
    """
    name = settings.model if name is None else name
    if name is None:
        name = read_default(settings)
        if name is not None and not is_model(name, settings):
            hint = "qwenctl models default NAME chooses another one, --unset none"
            raise ModelNotFound(f"the default model {name} is not there", hint)
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
    if text.endswith((SUFFIX, ".safetensors")) or text.startswith(("/", "./", "../", "~/")):
        return True
    return is_file(Path(text) / "config.json")


def model_not_found(name: str, settings: Settings) -> ModelNotFound:
    """Return the error for a name that means nothing here, with the step that helps."""
    given = typed_path(name)
    if is_file(given / "config.json"):
        hint = f"qwenctl convert {name} {given.resolve().name}"
        return ModelNotFound(f"{name} is a Hugging Face checkpoint, not a GGUF file", f"convert it: {hint}")
    if given.suffix == ".safetensors" and is_file(given):
        hint = f"qwenctl convert {given.parent} {given.parent.resolve().name}"
        return ModelNotFound(f"{name} is part of a Hugging Face checkpoint, not a GGUF file", f"convert it: {hint}")
    known = [model_name(path) for path in first_files(settings.models_dir)]
    near = get_close_matches(name.removesuffix(SUFFIX), known, 1)
    if near:
        return ModelNotFound(f"no model {name}", f"did you mean {near[0]}?")
    if _may_be_pulled(name) and _is_hub_name(name):
        return ModelNotFound(f"no model {name} is here", f"get it: qwenctl pull {name}")
    message = f"no model {name}: neither a GGUF file nor a name in {settings.models_dir}"
    return ModelNotFound(message, "qwenctl models lists what is there")


def _may_be_pulled(name: str) -> bool:
    """Tell whether `name` has the form of what models are pulled by, and not that of a prompt or a path."""
    return (":" in name or "/" in name) and not any(char.isspace() for char in name)


def _is_hub_name(name: str) -> bool:
    try:
        parse_name(name)
    except InvalidRequest:
        return False
    return not name.endswith(SUFFIX)
