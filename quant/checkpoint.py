"""Open a Hugging Face folder of safetensors: which files hold the weights, and that each tensor is there exactly once.

    model.safetensors                       one file, or
    model.safetensors.index.json            {"metadata": {"total_size": bytes}, "weight_map": {"tensor": "shard"}}
    model-00001-of-00118.safetensors …      the shards that it names

Weights stored as pickles (.bin, .pt, …) are never opened: unpickling runs whatever code the file carries. Names in the
index are plain file names, so nothing outside the folder is read, except through symbolic links that lie in it: the
Hugging Face cache links its snapshots to `../../blobs`. Knows nothing of what a tensor means, but for the parts of
packed weights, which it hands over as the weights they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quant.errors import CheckpointError, JsonFileError, SafetensorsError
from quant.json_file import read_json_object
from quant.quantized_checkpoint import decode_packed
from quant.quantized_checkpoint_config import PackedFormat
from quant.safetensors_read import SafetensorsFile, read_safetensors
from quant.shown import named, shown
from quant.source_files import DISK, SourceFiles
from quant.source_tensor import SourceTensor
from quant.tensor_info import TensorInfo

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20  # 3.6 MB for the 36,660 tensors of Qwen3-235B-A22B

_SHARD_NAME = re.compile(r"\w[\w.+-]*\.safetensors")  # a plain file name: no separator, no leading dot
_NUMBERED_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete set of weights.

    `tensors` holds every tensor of every file, files by name, tensors in the order of their data; weights that are
    packed follow. `notes` are one-line remarks on harmless contradictions in the index, and on packed weights.
    """

    folder: Path
    files: tuple[SafetensorsFile, ...]
    tensors: Mapping[str, SourceTensor]
    notes: tuple[str, ...] = ()


def open_checkpoint(folder: Path, packed: PackedFormat | None = None, source: SourceFiles = DISK) -> Checkpoint:
    """Read and check the headers of all weights in `folder`.

    Args:
        folder: the checkpoint; an index lies there on the disk.
        packed: how its weights are packed (`HfConfig.packed`); None: tensors are what their names say.
        source: where its weight files are.

    Raises:
        CheckpointError: no weights, pickles only, or shards or tensors that are missing, extra or in two places; parts
            of packed weights that do not fit each other.
        SafetensorsError: a shard or the index is not what its format demands.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder", "name the folder that holds config.json and the weights")
    files, tensors, notes = _open_files(folder, source)
    if packed is None:
        return Checkpoint(folder, files, tensors, notes)
    return Checkpoint(folder, files, decode_packed(tensors, packed), (*notes, packed.note))


_Files = tuple[tuple[SafetensorsFile, ...], Mapping[str, TensorInfo], tuple[str, ...]]


def _open_files(folder: Path, source: SourceFiles) -> _Files:
    names = source.names(folder)
    if INDEX_FILE in names:
        return _open_shards(folder, names, source)
    if SINGLE_FILE in names:
        file = read_safetensors(folder / SINGLE_FILE, source)
        return (file,), file.tensors, ()
    raise _no_weights(folder, names)


def _open_shards(folder: Path, names: set[str], source: SourceFiles) -> _Files:
    index = _read_index(folder / INDEX_FILE)
    weight_map = _weight_map(folder / INDEX_FILE, index)
    shards = sorted(set(weight_map.values()))
    _check_shard_files(folder, shards, names)
    files = tuple(read_safetensors(folder / name, source) for name in shards)
    tensors = _merge(files)
    _check_against_index(folder, tensors, weight_map)
    return files, tensors, _notes(index, tensors)


def _read_index(path: Path) -> dict[str, object]:
    try:
        return read_json_object(path, MAX_INDEX_BYTES)
    except JsonFileError as error:
        raise SafetensorsError(error.path, error.detail) from error


def _weight_map(path: Path, index: Mapping[str, object]) -> dict[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SafetensorsError(path, "weight_map must be an object that names the shard of each tensor")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise SafetensorsError(path, f"tensor {shown(tensor)}: {shown(shard)} is not the plain name of a shard")
    return weight_map


def _check_shard_files(folder: Path, shards: list[str], names: set[str]) -> None:
    missing = [name for name in shards if name not in names]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing: {_listed(missing)}", "download them again"
        )
    extra = sorted(
        name for name in names - set(shards) if name == SINGLE_FILE or _NUMBERED_SHARD.fullmatch(name)
    )  # others (consolidated.safetensors, adapters) are copies or additions that no loader of the index reads
    if extra:
        raise CheckpointError(
            f"{folder}: {INDEX_FILE} does not name {_listed(extra)}, so which weights are meant is unclear",
            "remove the file that is left over from another download",
        )


def _merge(files: Iterable[SafetensorsFile]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in file.tensors.items():
            if name in tensors:
                first = tensors[name].path.name
                raise CheckpointError(f"{file.path.parent}: tensor {named(name)} is in {first} and in {file.path.name}")
            tensors[name] = info
    return tensors


def _check_against_index(folder: Path, tensors: Mapping[str, TensorInfo], weight_map: Mapping[str, str]) -> None:
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} tensors of the index are in no shard: {_listed(missing)}")
    extra = [name for name in tensors if name not in weight_map]
    if extra:
        raise CheckpointError(f"{folder}: {len(extra)} tensors of the shards are not in the index: {_listed(extra)}")
    for name, shard in weight_map.items():
        if tensors[name].path.name != shard:
            raise CheckpointError(
                f"{folder}: tensor {named(name)} is in {tensors[name].path.name}, the index says {shard}"
            )


def _notes(index: Mapping[str, object], tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Compare metadata.total_size: published indexes are often off by a tied tensor, and nothing depends on it."""
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(info.n_bytes for info in tensors.values())
    if stated is None or stated == held:
        return ()
    return (f"{INDEX_FILE} says {shown(stated)} bytes in all, the shards hold {held}",)


def _no_weights(folder: Path, there: set[str]) -> CheckpointError:
    names = sorted(there)
    broken = [name for name in (SINGLE_FILE, INDEX_FILE) if (folder / name).is_symlink()]
    if broken:
        return CheckpointError(f"{folder}: {_listed(broken)} is a link to nowhere", "fetch the checkpoint again")
    found = [name for name in names if name.endswith(".safetensors")]
    if found:
        return CheckpointError(f"{folder}: found {_listed(found)}, but neither {SINGLE_FILE} nor {INDEX_FILE}")
    pickles = [name for name in names if Path(name).suffix in _PICKLES]
    if pickles:
        return CheckpointError(
            f"{folder}: its weights are pickles ({_listed(pickles)}), which can run code and are never read",
            "download the safetensors version of this model",
        )
    return CheckpointError(
        f"{folder}: no weights: neither {SINGLE_FILE} nor {INDEX_FILE}", "name the folder that holds the checkpoint"
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(named, names[:3])) + more
