"""config.json of an exported checkpoint, and the files that are carried over as they are.

`quantization_config` has the keys that AutoAWQ and GPTQModel write. What stays in 16 bits is named in a way that all
loaders understand alike: vLLM looks for the text anywhere in a module's name, transformers at its end, GPTQModel by a
regular expression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quant.errors import CheckpointError
from quant.export_format import ExportFormat
from quant.hf_config import HfConfig
from quant.json_file import read_json_object

_MAX_CONFIG_BYTES = 4 << 20
_MAX_CARRIED_BYTES = 64 << 20
_CARRIED = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "NOTICE",
)  # fmt: skip
_ROUTER = "mlp.gate"  # ends a module's name; mlp.gate_proj of dense layers is never beside it
_ROUTER_RULE = r"-:.*\.mlp\.gate$"


def export_config(folder: Path, config: HfConfig, kind: ExportFormat, tool: str) -> bytes:
    """Return the contents of config.json: the source's, with what the loaders need to know of the weights.

    Args:
        folder: the source.
        config: what is in it.
        kind: how the weights will be packed.
        tool: name and version of the program, for people.
    """
    document = read_json_object(folder / "config.json", _MAX_CONFIG_BYTES)
    key = "dtype" if "dtype" in document and "torch_dtype" not in document else "torch_dtype"
    if document.get(key) not in ("bfloat16", "float16"):
        document[key] = "bfloat16"
    document["quantization_config"] = quantization_config(config, kind, tool)
    return _as_json(document)


def quantization_config(config: HfConfig, kind: ExportFormat, tool: str) -> dict[str, Any]:
    """Return the entry of config.json that says how weights are packed."""
    has_router = config.n_experts > 0
    common: dict[str, Any] = {"quant_method": kind.name, "bits": 4, "group_size": kind.group_size}
    if kind.name == "awq":
        kept = ["lm_head", *([_ROUTER] if has_router else [])]
        return common | {"zero_point": True, "version": "gemm", "modules_to_not_convert": kept}
    kept_too: dict[str, Any] = {"dynamic": {_ROUTER_RULE: {}}} if has_router else {}
    return common | {
        "checkpoint_format": "gptq",
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "pack_dtype": "int32",
        **kept_too,
        "meta": {"quantizer": [tool]},
    }


def carried_files(folder: Path, config_json: bytes, kind: ExportFormat) -> dict[str, bytes]:
    """Return the contents of all small files of the output, by name.

    Raises:
        CheckpointError: a file that cannot be read, or is far too large.
    """
    files = {"config.json": config_json}
    if kind.name == "gptq":  # where loaders of before 2024 look
        files["quantize_config.json"] = _as_json(json.loads(config_json)["quantization_config"])
    for name in _CARRIED:
        path = folder / name
        if path.is_file():
            files[name] = _read(path)
    return files


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CARRIED_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    if len(data) > _MAX_CARRIED_BYTES:
        raise CheckpointError(f"{path}: longer than {_MAX_CARRIED_BYTES:,} bytes")
    return data


def _as_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
