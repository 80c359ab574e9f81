"""A choice of types as a file, to be looked at, changed by hand and used again.

    { "format": "qwenctl-recipe", "version": 1, "architecture": "qwen3moe", "name": "4.5bpw",
      "types": { "token_embd.weight": "Q6_K", "blk.0.attn_q.weight": "Q5_K", … } }

One type a tensor of the GGUF, in the file's order. Tensors that no recipe may touch (norms, biases, the router) are
left out: they stay F32. Knows nothing of how a choice is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quant.codecs.native import ENCODABLE_TYPES
from quant.durable_files import DurableFiles
from quant.errors import JsonFileError, RecipeMismatch
from quant.ggml_types import GGML_TYPES, GgmlType
from quant.json_fields import JsonFields
from quant.json_file import read_json_object
from quant.recipe import is_fixed
from quant.shown import named, shown

_FORMAT, _VERSION = "qwenctl-recipe", 1
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class TypeRecipe:
    """Types by tensor name. `name` says for people where they come from."""

    architecture: str
    name: str
    types: Mapping[str, GgmlType]


def write_recipe(recipe: TypeRecipe, path: Path, files: DurableFiles | None = None) -> None:
    """Write the file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "architecture": recipe.architecture,
        "name": recipe.name,
        "types": {name: one.name for name, one in recipe.types.items()},
    }
    data = json.dumps(document, indent=1).encode() + b"\n"
    (files or DurableFiles()).replace_whole(path, [(0, memoryview(data))], len(data))


def read_recipe(path: Path) -> TypeRecipe:
    """Return what the file says.

    Raises:
        JsonFileError: missing, not a recipe, or with a type that cannot be written.
    """
    document = read_json_object(path, _MAX_BYTES)
    if document.get("format") != _FORMAT or document.get("version") != _VERSION:
        raise JsonFileError(path, f"not a recipe of version {_VERSION}", "`qwenctl convert --budget` writes one")
    fields = JsonFields(path, document)
    types = document.get("types")
    if not isinstance(types, dict) or not types:
        raise fields.refuse("types", "must name a type for each tensor")
    return TypeRecipe(
        fields.text("architecture"), fields.text("name", ""), {name: _type(path, name, types[name]) for name in types}
    )


def _type(path: Path, tensor: str, name: object) -> GgmlType:
    found = GGML_TYPES.get(name.upper()) if isinstance(name, str) else None
    if found not in ENCODABLE_TYPES:
        known = ", ".join(one.name for one in ENCODABLE_TYPES)
        raise JsonFileError(path, f"{named(tensor)}: {shown(name)} is not a type that can be written", f"use {known}")
    return found


def types_of(recipe: TypeRecipe, architecture: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, GgmlType]:
    """Return the type of every tensor of a model.

    Args:
        recipe: the choice.
        architecture: of the model, as GGUF has it.
        shapes: of its tensors, in numpy order.

    Raises:
        RecipeMismatch: of another model: it lacks a tensor, has one too many, or its type's blocks do not divide a row.
    """
    if recipe.architecture != architecture:
        raise RecipeMismatch(f"the recipe is for {shown(recipe.architecture)}, the model is {architecture}")
    free = {name: shape for name, shape in shapes.items() if not is_fixed(name, shape)}
    for name in recipe.types:
        if name not in free:
            what = "stays F32 whatever a recipe says" if name in shapes else "is not in the model"
            raise RecipeMismatch(f"the recipe names {named(name)}, which {what}")
    for name, shape in free.items():
        if name not in recipe.types:
            raise RecipeMismatch(f"the recipe has no type for {named(name)}")
        if not recipe.types[name].divides(shape[-1]):
            raise RecipeMismatch(
                f"{named(name)} has rows of {shape[-1]}, which blocks of {recipe.types[name].name} do not divide"
            )
    return {name: recipe.types.get(name, GGML_TYPES["F32"]) for name in shapes}
