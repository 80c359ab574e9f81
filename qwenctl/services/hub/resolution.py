"""From what was asked for to the files of one repository: which is meant, and whether it is fetched or converted.

Decides; asks the hub for listings through the function that it is given, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from quant.recipe import OUTPUT_TYPES
from quant.shown import named, some
from qwenctl.errors import InvalidRequest, ModelNotFound
from qwenctl.services.hub.gguf_choice import choose_model, find_models, has_quant, offered
from qwenctl.services.hub.listing import Repository, is_gguf, is_pickle, last_part
from qwenctl.services.hub.model_names import FamilyName, RepoName
from qwenctl.services.hub.remote_file import RemoteFile

DEFAULT_TYPE = "q4_k_m"
Kind = Literal["gguf", "conversion", "export", "checkpoint"]
Ask = Callable[[str, str | None], Repository]
"""Returns the listing of a repository at a revision (None: its default branch)."""

_GGUF_ENDING = re.compile(r"[-_.]gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be had, and how: GGUF files as they are, a checkpoint converted to GGUF or exported on the way, or its
    files as they are.

    `files` are the weights; `quant` the type or format in the end, None for a checkpoint as it is or a file that does
    not tell.
    """

    kind: Kind
    repository: Repository
    files: tuple[RemoteFile, ...]
    quant: str | None
    label: str  # a good name for the result, without suffix
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Of the weights."""
        return sum(file.n_bytes for file in self.files)

    @property
    def texts(self) -> tuple[RemoteFile, ...]:
        """The small files that a checkpoint needs beside its weights."""
        return () if self.kind == "gguf" else self.repository.texts


@dataclass(frozen=True, slots=True)
class Choice:
    """What the options say: a type, whether only a conversion can give it, a format to export to, or neither."""

    quant: str | None = None
    must_convert: bool = False
    export: str | None = None  # awq, gptq
    as_it_is: bool = False

    @property
    def may_be_gguf(self) -> bool:
        """Whether a ready-made GGUF file would do."""
        return not (self.must_convert or self.export or self.as_it_is)


def resolve(name: RepoName | FamilyName, choice: Choice, ask: Ask) -> Wanted:
    """Return what `name` means.

    Args:
        name: as `parse_name` returns it, the options' revision and type worked in (`with_options`).
        choice: what the options say.
        ask: lists a repository.

    Raises:
        ModelNotFound: no such repository, file or type; the hint says what there is.
        InvalidRequest: a type that cannot be made, pickles, or options that do not go together.
        QwenctlError: several models of the type, or an incomplete one; see `choose_model`. What `ask` raises.
    """
    choice = replace(choice, quant=choice.quant or name.quant)
    if isinstance(name, FamilyName):
        return _resolve_family(name, choice, ask)
    return _in_repository(ask(name.repo_id, name.revision), name.path, choice)


def with_options(name: RepoName | FamilyName, quant: str | None, revision: str | None) -> RepoName | FamilyName:
    """Return `name` with what the options add.

    Raises:
        InvalidRequest: name and options say different things.
    """
    if quant and name.quant and quant.lower() != name.quant.lower():
        raise InvalidRequest(f"the name says {name.quant}, --quant {quant}", "leave one of them out")
    if isinstance(name, FamilyName):
        if revision:
            hint = f"name it: {name.entry.checkpoint}@{revision}"
            raise InvalidRequest("a revision is one of a repository, not of a short name", hint)
        return replace(name, quant=quant or name.quant)
    if revision and name.revision and revision != name.revision:
        raise InvalidRequest(f"the name says revision {name.revision}, --revision {revision}", "leave one out")
    return replace(name, quant=quant or name.quant, revision=revision or name.revision)


def _resolve_family(name: FamilyName, choice: Choice, ask: Ask) -> Wanted:
    """Take the ready-made file where it is the makers' own and has the type, else convert; see short_names.py."""
    entry = name.entry
    if choice.may_be_gguf and entry.prefers_gguf:
        repository = ask(entry.gguf, None)
        if not entry.is_convertible or has_quant(repository.files, choice.quant):
            wanted = _gguf(repository, repository.files, choice.quant)
            other = f"from the original weights: qwenctl pull {entry.checkpoint}"
            return replace(wanted, notes=(other,) if entry.is_convertible else ())
    if (choice.must_convert or choice.export) and not entry.is_convertible:
        raise InvalidRequest(
            f"{entry.name} cannot be converted here", f"there is a GGUF file: qwenctl pull {entry.gguf}"
        )
    wanted = _in_repository(ask(entry.checkpoint, None), None, choice)
    return replace(wanted, notes=(f"ready-made files: qwenctl pull {entry.gguf}",))


def _in_repository(repository: Repository, path: str | None, choice: Choice) -> Wanted:
    if path is not None:
        return _at_path(repository, path, choice)
    ggufs = find_models(repository.files)
    if ggufs and choice.may_be_gguf and (has_quant(repository.files, choice.quant) or not repository.shards):
        return _gguf(repository, repository.files, choice.quant)
    if repository.shards:
        return _checkpoint(repository, choice)
    if ggufs:
        what = "--raw, which is for checkpoints" if choice.as_it_is else "options that need the original weights"
        raise InvalidRequest(
            f"{repository.repo_id} holds GGUF files only, which does not go with {what}", _base(repository)
        )
    raise _nothing(repository)


def _at_path(repository: Repository, path: str, choice: Choice) -> Wanted:
    """Return the file at `path`, with its split set, or what lies below a folder of that name."""
    if not choice.may_be_gguf:
        raise InvalidRequest(f"{named(path)} is a part of a repository", f"name all of it: {repository.repo_id}")
    if is_gguf(path):
        models = [model for model in find_models(repository.files) if any(file.path == path for file in model.files)]
        if not models:
            found = [file.path for file in repository.files if is_gguf(file.path)]
            hint = f"it has {some(found, 6)}" if found else None
            raise ModelNotFound(f"{repository.repo_id} has no file {named(path)} that is a model", hint)
        return _gguf(repository, models[0].files, None)
    below = [file for file in repository.files if file.path.startswith(f"{path}/")]
    if not any(is_gguf(file.path) for file in below):
        hint = f"only GGUF files are fetched one by one; name the repository: {repository.repo_id}"
        raise ModelNotFound(f"{repository.repo_id} has no GGUF file at {named(path)}", hint)
    return _gguf(repository, below, choice.quant)


def _gguf(repository: Repository, files: Sequence[RemoteFile], quant: str | None) -> Wanted:
    model = choose_model(repository.repo_id, files, quant)
    stem = last_part(model.name).lower()
    if model.quant and model.quant.lower() not in stem:
        stem = f"{_GGUF_ENDING.sub('', last_part(repository.repo_id)).lower()}-{model.quant.lower()}"
    return Wanted("gguf", repository, model.files, model.quant, stem)


def _checkpoint(repository: Repository, choice: Choice) -> Wanted:
    label = last_part(repository.repo_id)
    if choice.as_it_is:
        return Wanted("checkpoint", repository, repository.shards, None, label)
    if choice.export is not None:
        if choice.quant:
            raise InvalidRequest(f"{choice.export} has one type, not {named(choice.quant)}", "leave the type out")
        return Wanted("export", repository, repository.shards, choice.export, f"{label}-{choice.export.upper()}")
    quant = (choice.quant or DEFAULT_TYPE).lower()
    if quant not in OUTPUT_TYPES:
        there = offered(repository.files)
        also = f"; ready-made are {some(there, 16)}" if there else ""
        raise InvalidRequest(f"no type {named(quant)} to convert to", f"choose one of {', '.join(OUTPUT_TYPES)}{also}")
    return Wanted("conversion", repository, repository.shards, quant, f"{label.lower()}-{quant}")


def _base(repository: Repository) -> str | None:
    """Return where the original weights of a repository of GGUF files are, as its card tells."""
    return f"name the original: {repository.base_models[0]}" if repository.base_models else None


def _nothing(repository: Repository) -> InvalidRequest | ModelNotFound:
    if any(is_pickle(file.path) for file in repository.files):
        message = f"{repository.repo_id} has its weights as pickles only, which run code when they are read"
        return InvalidRequest(message, "choose a repository with safetensors or GGUF files")
    return ModelNotFound(f"{repository.repo_id} holds no model: neither safetensors nor GGUF files", repository.page)
