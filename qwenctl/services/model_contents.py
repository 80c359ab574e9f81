"""Open a GGUF file, a checkpoint's folder or one safetensors file, and bring them to one form: metadata and tensors.

A checkpoint gets the metadata that its conversion would write. Headers only; weights are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quant.chat_templates import read_chat_templates
from quant.checkpoint import open_checkpoint
from quant.gguf_read import read_gguf
from quant.hf_config import read_config
from quant.metadata import model_metadata
from quant.model_source import describe_source
from quant.safetensors_read import read_safetensors
from quant.tensor_info import TensorInfo
from quant.tensor_names import map_tensors
from quant.tokenizer import read_tokenizer
from qwenctl.errors import InvalidRequest, ModelNotFound


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor, by its name in a GGUF file (in a lone safetensors file: its own)."""

    name: str
    type_name: str
    n_weights: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ModelContents:
    """What all kinds come down to; `metadata` maps GGUF keys to plain values, arrays included."""

    kind: str
    n_files: int
    n_bytes: int
    metadata: Mapping[str, object]
    tensors: tuple[StoredTensor, ...]


def open_contents(path: Path) -> ModelContents:
    """Return what `path` holds.

    Raises:
        ModelNotFound: nothing there.
        InvalidRequest: neither a folder nor a file of a known kind.
        QuantError: what is wrong with it.
    """
    if path.is_dir():
        return _checkpoint(path)
    if not path.exists():
        raise ModelNotFound(f"no file or folder {path}")
    if path.suffix == ".safetensors":
        file = read_safetensors(path)
        return ModelContents("safetensors file", 1, file.size_bytes, {}, _stored(file.tensors.values()))
    if path.suffix == ".gguf":
        gguf = read_gguf(path)
        return ModelContents("GGUF", len(gguf.paths), gguf.size_bytes, gguf.metadata, _stored(gguf.tensors.values()))
    raise InvalidRequest(f"{path} is neither .gguf nor .safetensors", "name such a file, or a checkpoint's folder")


def _stored(tensors: Iterable[TensorInfo]) -> tuple[StoredTensor, ...]:
    return tuple(StoredTensor(info.name, info.dtype, info.n_weights, info.n_bytes) for info in tensors)


def _checkpoint(folder: Path) -> ModelContents:
    config = read_config(folder)
    checkpoint = open_checkpoint(folder, config.packed)
    targets = map_tensors(config, checkpoint.tensors)
    source = describe_source(folder, config, targets)
    tokenizer = read_tokenizer(folder, config.n_vocab)
    fields = model_metadata(config, tokenizer, read_chat_templates(folder), source)
    tensors = tuple(
        StoredTensor(
            target.name,
            target.sources[0].info.dtype,
            prod(target.shape),
            sum(part.n_rows * part.info.n_bytes // part.info.n_rows for part in target.sources),
        )
        for target in targets
    )
    n_bytes = sum(file.size_bytes for file in checkpoint.files)
    metadata = {key: field.value for key, field in fields.items()}
    return ModelContents("Hugging Face checkpoint", len(checkpoint.files), n_bytes, metadata, tensors)
