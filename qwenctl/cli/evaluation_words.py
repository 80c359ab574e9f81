"""Which words of `qwenctl eval` are models and which is the text. Knows file names only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qwenctl.cli.prompt_input import STDIN
from qwenctl.errors import InvalidRequest
from qwenctl.services.model_store import is_model, model_not_found
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings


class Evaluated(NamedTuple):
    """The words, told apart."""

    models: tuple[str, ...]
    text: str | None  # None: the one that comes with the program


def tell_apart(words: Sequence[str], settings: Settings) -> Evaluated:
    """Decide which words are models; the last is the text unless a model of that name is here.

    Raises:
        ModelNotFound: a word that should be a model is none.
        InvalidRequest: the last word is neither a model nor a file.
    """
    *models, last = words or ("",)
    text = last if last and not is_model(last, settings) else None
    if last and text is None:
        models.append(last)
    for word in models:
        if not is_model(word, settings):
            raise model_not_found(word, settings)
    if text is None or text == STDIN or _is_text(typed_path(text)):
        return Evaluated(tuple(models), text)
    if not models or text.endswith(".gguf"):
        raise model_not_found(text, settings)
    raise InvalidRequest(f"{text} is neither a text file nor a model", "name a file, or - for standard input")


def _is_text(path: Path) -> bool:
    """Tell whether a path can be read as a text: a pipe (`<(...)`) is as good as a file."""
    return path.exists() and not path.is_dir() and path.suffix not in (".gguf", ".safetensors")
