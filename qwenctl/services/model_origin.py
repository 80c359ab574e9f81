"""Where a model came from, kept beside it: repository, commit, hashes, licence. For `models show` and `models verify`.

    qwen3-8b-q4_k_m.gguf
    qwen3-8b-q4_k_m.gguf.origin.json    {"format": "model-origin", "version": 1, "asked": "qwen3:8b",
                                         "hub": …, "repo": "Qwen/Qwen3-8B-GGUF", "revision": "main", "commit": …,
                                         "license": …, "pulled_at": "2026-11-26T07:00:00Z", "converted_to": null, …
                                         "files": [{"name": …, "n_bytes": …, "sha256": …, "source": …}, …],
                                         "sources": [… the same of what was converted …]}

`files` are those of the model as they lie here; of a conversion, whose own hashes are its digests (quant/digests.py),
there are none, and `sources` are the files that it was made from. A split set has one record, at its first file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from quant.durable_files import DurableFiles
from quant.errors import JsonFileError
from quant.json_fields import JsonFields
from quant.json_file import read_json_object

_FORMAT = {"format": "model-origin", "version": 1}
_MAX_RECORD_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 50
_SUFFIX = ".origin.json"


@dataclass(frozen=True, slots=True)
class OriginFile:
    """One file: its name here, or in the repository for what was converted; `source` is its path in the repository."""

    name: str
    n_bytes: int
    sha256: str
    source: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model came from. `asked` is what the user typed, `pulled_at` UTC in ISO 8601."""

    asked: str
    hub: str
    repo: str
    revision: str
    commit: str
    pulled_at: str
    license: str | None = None
    license_link: str | None = None
    base_models: tuple[str, ...] = ()
    converted_to: str | None = None  # type; None: files as they are on the hub
    imatrix: str | None = None  # what weighed the errors of the conversion
    files: tuple[OriginFile, ...] = ()
    sources: tuple[OriginFile, ...] = ()

    @property
    def page(self) -> str:
        """The address of the very commit, for people."""
        return f"{self.hub}/{self.repo}/tree/{self.commit}"


def origin_path(path: Path) -> Path:
    """Return where the record of the model `path` is kept."""
    return path.with_name(path.name + _SUFFIX)


def write_origin(path: Path, origin: Origin, files: DurableFiles | None = None) -> None:
    """Write the record of the model `path` beside it, replacing an older one.

    Raises:
        OSError: the disk is full or refuses; an older record stays.
    """
    data = json.dumps({**_FORMAT, **asdict(origin)}, ensure_ascii=False, indent=1).encode() + b"\n"
    (files or DurableFiles()).replace_whole(origin_path(path), [(0, memoryview(data))], len(data))


def read_origin(path: Path) -> Origin | None:
    """Return the record of the model `path`, None where there is none.

    Raises:
        JsonFileError: there is one that cannot be read.
    """
    source = origin_path(path)
    if not source.exists():
        return None
    document = read_json_object(source, _MAX_RECORD_BYTES)
    if any(document.get(key) != value for key, value in _FORMAT.items()):
        raise JsonFileError(source, f"not a record of version {_FORMAT['version']}")
    record = JsonFields(source, document)
    values: dict[str, Any] = {field.name: record.text(field.name) for field in fields(Origin) if field.type == "str"}
    for name in ("license", "license_link", "converted_to", "imatrix"):
        values[name] = record.text(name, "") or None
    base_models = record.raw("base_models") or []
    return Origin(
        **values,
        base_models=tuple(str(name) for name in base_models),
        files=_files(record, "files"),
        sources=_files(record, "sources"),
    )


def readable_origin(path: Path) -> Origin | None:
    """Return what `read_origin` does; None, too, for a record that cannot be read."""
    try:
        return read_origin(path)
    except JsonFileError:
        return None


def _files(record: JsonFields, key: str) -> tuple[OriginFile, ...]:
    return tuple(
        OriginFile(
            entry.text("name"), entry.integer("n_bytes", 0, _MAX_FILE_BYTES), entry.text("sha256"), entry.text("source")
        )
        for entry in record.children(key)
    )


def find_asked(folder: Path, asked: str) -> Path | None:
    """Return the model in `folder` that was pulled by the name `asked`; the latest, where there are several."""
    found: list[tuple[str, Path]] = []
    for record in sorted(folder.glob(f"*{_SUFFIX}")):
        model = record.with_name(record.name.removesuffix(_SUFFIX))
        origin = readable_origin(model)
        if origin is not None and origin.asked.lower() == asked.lower() and model.exists():
            found.append((origin.pulled_at, model))
    return max(found)[1] if found else None
