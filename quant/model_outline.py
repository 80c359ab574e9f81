"""A model without its weights: metadata, names and shapes of the GGUF file it is, or would become.

From the header of a GGUF file, from a checkpoint that was read, or from config.json alone. What a plan of memory needs,
before a byte of weights is there. Knows nothing of machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quant.errors import CheckpointError, UnsupportedArchitecture
from quant.ggml_types import GGML_TYPES, GgmlType
from quant.gguf_format import DEFAULT_ALIGNMENT, padded
from quant.gguf_header import GgufValue
from quant.gguf_read import GgufFile
from quant.hf_config import HfConfig, parse_config
from quant.json_fields import JsonFields
from quant.metadata import hyper_parameters
from quant.outline_families import draft_of
from quant.recipe import OutputType, RecipeModel, choose_types
from quant.tensor_info import TensorInfo
from quant.tensor_names import target_shapes

_LEAST_COLUMNS = 32  # of a matrix that can be quantized; convolutions of a few taps stay F32
# With config.json alone the vocabulary is not known: 39 bytes a token of Qwen3's, its merges counted.
_VOCABULARY_BYTES = 40


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """What a model consists of.

    Attributes:
        name: for people.
        metadata: GGUF keys, those that shape memory and computing at least.
        shapes: of every tensor by its GGUF name, numpy order, in the order of the file.
        types: of every tensor where they are fixed, since the file exists; None: chosen by an output type.
        converts: `qwenctl convert` knows the family; False: sizes after another tool's conversion, types approximate.
        header_bytes: of the file before its tensors.
    """

    name: str
    metadata: Mapping[str, GgufValue]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, GgmlType] | None = None
    converts: bool = True
    header_bytes: int = 0

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return str(self.metadata["general.architecture"])

    def number(self, key: str, default: int = 0) -> int:
        """Return a count below the architecture's prefix, `default` without it; the largest, where layers differ."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, int | float):
            return int(value)
        return default if isinstance(value, str | list) else int(value.max())

    def types_for(self, output: OutputType) -> dict[str, GgmlType]:
        """Return every tensor's type in a file of `output`, without an importance matrix."""
        model = RecipeModel(
            architecture=self.architecture,
            n_layers=self.number("block_count", 1),
            n_experts=self.number("expert_count"),
            n_heads=self.number("attention.head_count", 1),
            n_kv_heads=self.number("attention.head_count_kv", 1),
        )
        wide = [(name, shape) for name, shape in self.shapes.items() if shape[-1] >= _LEAST_COLUMNS]
        chosen = choose_types(output, model, wide, has_imatrix=False)
        return {name: chosen.get(name, GGML_TYPES["F32"]) for name in self.shapes}

    def gguf(self, output: OutputType | None = None) -> GgufFile:
        """Return the file as `read_gguf` would: every tensor's place and size, under a name that no file has.

        Args:
            output: what it is to be converted to; None: the file exists, and has its types.

        Raises:
            CheckpointError: no types are known and none are asked for.
        """
        types = self.types if output is None else self.types_for(output)
        if types is None:
            raise CheckpointError(f"{self.name} is no GGUF file, so its types must be chosen", "name one with --quant")
        path, offset = Path(f"{self.name}.gguf"), padded(self.header_bytes, DEFAULT_ALIGNMENT)
        tensors: dict[str, TensorInfo] = {}
        for name, shape in self.shapes.items():
            n_bytes = types[name].tensor_bytes(shape)
            tensors[name] = TensorInfo(name, types[name].name, shape, path, offset, n_bytes)
            offset += padded(n_bytes, DEFAULT_ALIGNMENT)
        return GgufFile((path,), 3, DEFAULT_ALIGNMENT, self.metadata, {}, tensors, self.header_bytes, offset)


def outline_of_gguf(name: str, gguf: GgufFile) -> ModelOutline:
    """Return the outline of a file whose header was read."""
    shapes = {tensor.name: tensor.shape for tensor in gguf.tensors.values()}
    types = {tensor.name: GGML_TYPES[tensor.dtype] for tensor in gguf.tensors.values()}
    return ModelOutline(name, gguf.metadata, shapes, types, header_bytes=gguf.data_offset_bytes)


def outline_of_config(name: str, fields: JsonFields) -> ModelOutline:
    """Return the outline of a checkpoint from its config.json alone.

    Args:
        name: of the model.
        fields: of config.json.

    Raises:
        UnsupportedArchitecture: a family that is not known here, or not as llama.cpp has it.
        JsonFileError: values that are missing or out of bounds.
    """
    try:
        config = parse_config(fields, JsonFields(fields.path, {}))
    except UnsupportedArchitecture:
        draft = draft_of(fields)
        if draft is None:
            raise
        vocabulary = draft.shapes["token_embd.weight"][0]
        metadata = {**draft.metadata, f"{draft.metadata['general.architecture']}.vocab_size": vocabulary}
        return ModelOutline(name, metadata, draft.shapes, None, converts=False, header_bytes=_header_bytes(vocabulary))
    return ModelOutline(
        name, config_metadata(config), target_shapes(config), None, header_bytes=_header_bytes(config.n_vocab)
    )


def config_metadata(config: HfConfig) -> dict[str, GgufValue]:
    """Return the metadata that shapes the model, as the converted file will have it."""
    pairs: dict[str, GgufValue] = {"general.architecture": config.architecture.gguf_name}
    for key, entry in hyper_parameters(config):
        if isinstance(entry.value, int | float | str):
            pairs[key] = entry.value
    pairs[f"{config.architecture.gguf_name}.vocab_size"] = config.n_vocab
    return pairs


def _header_bytes(n_vocab: int) -> int:
    return n_vocab * _VOCABULARY_BYTES
