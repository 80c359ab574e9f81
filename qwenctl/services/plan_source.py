"""Which model a plan is for: a file or folder here, or a repository on a hub, of which headers and config are fetched.

GGUF file, name of a converted model     its header; nothing is asked of any network
checkpoint's folder, or its config.json  config.json alone
user/repo[:type][@revision], short name  config.json, or the headers of the GGUF files, by range requests
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from quant.errors import GgufError, JsonFileError
from quant.ggml_types import GgmlType
from quant.gguf_cursor import MAX_HEADER_BYTES, NeedMoreBytesError
from quant.gguf_header import GgufHeader, parse_header
from quant.gguf_read import read_gguf
from quant.json_fields import JsonFields
from quant.json_file import parse_json_object, read_json_object
from quant.model_outline import ModelOutline, outline_of_config, outline_of_gguf
from qwenctl.errors import InvalidRequest, ModelNotFound
from qwenctl.planning.commands import SourceKind
from qwenctl.services.hub.listing import Repository
from qwenctl.services.hub.model_names import FamilyName, RepoName
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.resolution import Choice, resolve
from qwenctl.services.model_store import find_model, looks_like_path, model_not_found
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings

_MAX_CONFIG_BYTES = 4 << 20
_FIRST_HEADER_BYTES = 1 << 20
_NO_CONFIG = "a checkpoint without config.json cannot be planned"

ReadRange = Callable[[RemoteFile, int, int], bytes]


@dataclass(frozen=True, slots=True)
class PlanSource:
    """A model to plan for.

    Attributes:
        asked: what the user typed.
        kind: where it is, and in which form.
        outline: what it consists of.
        path: of a GGUF file or a folder here; None: it is on a hub.
        quant: the type of files that are there, where their name tells.
    """

    asked: str
    kind: SourceKind
    outline: ModelOutline
    path: Path | None = None
    quant: str | None = None


def find_source(name: str, quant: str | None, settings: Settings) -> PlanSource:
    """Return the model that `name` means. Only a name that means nothing here is looked for on the hub.

    Args:
        name: as typed.
        quant: that was asked for.
        settings: of the program.

    Raises:
        ModelNotFound: nowhere; the hint says what there is.
        QuantError: a file that is not what it should be, or a family that nothing here knows.
        HubError: the hub does not answer, or refuses.
    """
    local = _local(name, settings)
    if local is not None:
        return local
    if looks_like_path(name):
        raise model_not_found(name, settings)
    # The hub's client opens a socket when it is imported (urllib3 looks for IPv6); what lies here needs none of it.
    source: PlanSource = import_module("qwenctl.services.plan_source_hub").source_on_hub(name, quant, settings)
    return source


def _local(name: str, settings: Settings) -> PlanSource | None:
    found = find_model(name, settings)
    if found is not None:
        return PlanSource(name, "gguf", _checked(outline_of_gguf(found.stem, read_gguf(found)), found.name), found)
    given = typed_path(name)
    config = given / "config.json" if given.is_dir() else given
    if (config.name != "config.json" and config.suffix != ".json") or not config.is_file():
        return None
    fields = JsonFields(config, read_json_object(config, _MAX_CONFIG_BYTES))
    if config.name != "config.json":
        return PlanSource(name, "checkpoint", outline_of_config(config.stem, fields), config.parent)
    label = config.resolve().parent.name
    return PlanSource(str(config.parent), "checkpoint", outline_of_config(label, fields), config.parent)


def remote_source(
    asked: str, name: RepoName | FamilyName, ask: Callable[[str, str | None], Repository], read: ReadRange
) -> PlanSource:
    """Return the model that a name on a hub means.

    Args:
        asked: as typed.
        name: taken apart, with the options' type.
        ask: lists a repository at a revision.
        read: returns bytes of a file from an offset on.

    Raises: as `find_source`.
    """
    if isinstance(name, FamilyName) and name.entry.is_convertible:
        name = RepoName(name.entry.checkpoint, name.quant)
    wanted = resolve(name, Choice(), ask)
    repository = wanted.repository
    label = repository.repo_id.rsplit("/", 1)[-1]
    if wanted.kind == "gguf":
        outline = _gguf_outline(wanted.label, wanted.files, read)
        return PlanSource(asked, "hub gguf", outline, quant=wanted.quant)
    config = next((file for file in repository.files if file.path == "config.json"), None)
    if config is None or config.n_bytes > _MAX_CONFIG_BYTES:
        raise ModelNotFound(f"{repository.repo_id} has no config.json", _NO_CONFIG)
    path = Path(config.name)
    try:
        values = parse_json_object(read(config, 0, config.n_bytes))
    except ValueError as error:
        raise JsonFileError(path, str(error)) from error
    return PlanSource(asked, "hub", outline_of_config(label, JsonFields(path, values)))


def _gguf_outline(name: str, files: tuple[RemoteFile, ...], read: ReadRange) -> ModelOutline:
    headers = [_header(file, read) for file in files]
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, GgmlType] = {}
    for header in headers:
        shapes |= {tensor.name: tensor.shape for tensor in header.tensors}
        types |= {tensor.name: tensor.type for tensor in header.tensors}
    outline = ModelOutline(name, headers[0].metadata, shapes, types, header_bytes=headers[0].n_bytes)
    return _checked(outline, files[0].name)


def _checked(outline: ModelOutline, file_name: str) -> ModelOutline:
    if "token_embd.weight" not in outline.shapes:
        raise InvalidRequest(f"{file_name} holds no language model: it has no token_embd.weight")
    return outline


def _header(file: RemoteFile, read: ReadRange) -> GgufHeader:
    path, wanted, data = Path(file.name), _FIRST_HEADER_BYTES, b""
    while True:
        wanted = min(wanted, file.n_bytes, MAX_HEADER_BYTES)
        data += read(file, len(data), wanted - len(data))
        try:
            return parse_header(path, data, file.n_bytes)
        except NeedMoreBytesError:
            if wanted in (file.n_bytes, MAX_HEADER_BYTES):
                raise GgufError(path, "its header does not end") from None
        wanted *= 4
