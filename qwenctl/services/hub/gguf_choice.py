"""Which GGUF files of a repository a type means: one file, or all of a split set. Pure.

    Qwen3-8B-Q4_K_M.gguf                                  one file
    Q4_K_M/Qwen3-235B-A22B-Q4_K_M-00001-of-00005.gguf …   a split set, complete or refused
    mmproj-F16.gguf, imatrix_unsloth.gguf                 no model: left out

The naming of split sets is llama.cpp's (tools/gguf-split). Types are read from file names: repositories are found by
people who name files after them, and the header would cost a request each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quant.shown import named, some
from qwenctl.errors import ModelNotFound, QwenctlError
from qwenctl.services.hub.listing import is_gguf, last_part
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.split_files import split_names

_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.ASCII)
_NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_TYPE = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q[1-8]_(?:K_?|[01])?(?:XXS|XS|NL|S|M|L|XL)?(?:_[048]_[048])?|TQ[12]_0|MXFP4(?:_MOE)?"
    r"|BF16|FP?16|FP?32))(?=$|[-._/])",
    re.IGNORECASE,
)

# Where no type is asked for, the first of these that is there. Four bits first: the best that most machines can hold.
_DEFAULT_ORDER = (
    "Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "MXFP4_MOE", "MXFP4",
    "Q5_K_M", "UD-Q5_K_XL", "Q5_K_S", "Q6_K", "Q8_0", "Q3_K_M", "BF16", "F16", "F32",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model: its files in order, and the type that their names tell (None: none)."""

    name: str  # without suffix and number: Q4_K_M/Qwen3-235B-A22B-Q4_K_M
    quant: str | None
    files: tuple[RemoteFile, ...]
    n_files: int  # that there should be

    @property
    def n_bytes(self) -> int:
        """Of all its files."""
        return sum(file.n_bytes for file in self.files)


def find_models(files: Sequence[RemoteFile]) -> tuple[GgufModel, ...]:
    """Return the models among `files`, by name; a split set may be incomplete."""
    groups: dict[tuple[str, int], list[RemoteFile]] = {}
    for file in files:
        if not is_gguf(file.path) or _NO_MODEL.search(last_part(file.path)):
            continue
        stem = file.path[: -len(".gguf")]
        match = _SPLIT.fullmatch(stem)
        groups.setdefault((match["stem"], int(match["count"])) if match else (stem, 1), []).append(file)
    return tuple(
        GgufModel(stem, quant_of(stem), tuple(sorted(group, key=lambda file: file.path)), count)
        for (stem, count), group in sorted(groups.items())
    )


def quant_of(stem: str) -> str | None:
    """Return the type that a file's path tells, in capitals: the last that looks like one."""
    found = _TYPE.findall(stem)
    return found[-1].upper().replace("FP16", "F16").replace("FP32", "F32") if found else None


def offered(files: Sequence[RemoteFile]) -> tuple[str, ...]:
    """Return the types that are there, in our order of preference, then by name."""
    quants = {model.quant for model in find_models(files) if model.quant}
    return tuple(sorted(quants, key=lambda quant: (_rank(quant), quant)))


def has_quant(files: Sequence[RemoteFile], quant: str | None) -> bool:
    """Tell whether there is a model of that type; of any, where it is None."""
    return bool(_matching(find_models(files), quant))


def choose_model(repo_id: str, files: Sequence[RemoteFile], quant: str | None) -> GgufModel:
    """Return the model that `quant` means.

    Args:
        repo_id: for messages.
        files: of the repository, or of what lies below a path in it.
        quant: as typed, in any case; None: the first of our order of preference that is there.

    Raises:
        ModelNotFound: no such type; the hint lists those there are.
        QwenctlError: several models of that type, or a split set that lacks a file.
    """
    models = find_models(files)
    found = _matching(models, quant)
    if not found:
        there = offered(files) or tuple(model.name for model in models)
        what = f"GGUF file of the type {named(quant)}" if quant and models else "GGUF file"
        hint = f"it has {some(there, 24)}" if there else None
        raise ModelNotFound(f"{repo_id} has no {what}", hint)
    if quant is None:
        found = _preferred(found)
    if len(found) > 1:
        names = some([f"{repo_id}/{model.files[0].path}" for model in found], 4, " or ")
        raise QwenctlError(f"{repo_id} has {len(found)} such models", f"name one: {names}")
    return _complete(repo_id, found[0])


def _matching(models: Sequence[GgufModel], quant: str | None) -> list[GgufModel]:
    if quant is None:
        return list(models)
    wanted = quant.upper()
    exact = [model for model in models if model.quant == wanted]
    return exact or [model for model in models if model.quant == f"UD-{wanted}"]


def _preferred(models: Sequence[GgufModel]) -> list[GgufModel]:
    best = min(_rank(model.quant) for model in models)
    return [model for model in models if _rank(model.quant) == best]


def _rank(quant: str | None) -> int:
    return _DEFAULT_ORDER.index(quant) if quant in _DEFAULT_ORDER else len(_DEFAULT_ORDER)


def _complete(repo_id: str, model: GgufModel) -> GgufModel:
    if len(model.files) == model.n_files:
        return model
    paths = {file.path for file in model.files}
    missing = [path for path in split_names(f"{model.name}.gguf", model.n_files) if path not in paths]
    raise QwenctlError(
        f"{repo_id} lacks {len(missing)} of the {model.n_files} files of {model.name}: {some(missing, 3)}",
        "the upload is not complete: choose another type, or an earlier revision",
    )
