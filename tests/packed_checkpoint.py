"""AWQ and GPTQ checkpoints for tests: weights rounded to nearest, packed bit by bit as the formats say.

Written without the packages under test, slowly and plainly, so that a mistake in theirs is not made here again: a word
is the sum of its eight numbers times powers of 16, placed by index. `pack_checkpoint` writes files, and returns what
each weight in them is worth, as f32, which a reader has to find to the bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tests.tiny_checkpoint import StoredTensor, encode, to_bf16, write_stored

_AWQ_OUTPUT_OF_NIBBLE = [0, 2, 4, 6, 1, 3, 5, 7]
_COPIED = ("tokenizer", "vocab", "merges", "generation_config", "special_tokens", "added_tokens", "chat_template")


@dataclass(frozen=True, slots=True)
class Packing:
    """How weights are packed. `group_size` -1: one group a row; `desc_act`: inputs belong to groups in mixed order."""

    method: Literal["awq", "gptq"] = "awq"
    bits: int = 4
    group_size: int = 32
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    desc_act: bool = False
    symmetric: bool = False
    config: Mapping[str, object] = field(default_factory=dict)  # entries of quantization_config to add or replace

    @property
    def quantization_config(self) -> dict[str, object]:
        """Return the entry of config.json, with the keys that AutoAWQ and GPTQModel write."""
        stated: dict[str, object] = {"quant_method": self.method, "bits": self.bits, "group_size": self.group_size}
        if self.method == "awq":
            stated |= {"zero_point": True, "version": "gemm", "modules_to_not_convert": ["lm_head", "mlp.gate"]}
        else:
            stated |= {
                "checkpoint_format": self.checkpoint_format,
                "desc_act": self.desc_act,
                "sym": self.symmetric,
                "lm_head": False,
                "pack_dtype": "int32",
            }
        return stated | dict(self.config)


def pack_checkpoint(
    source: Path, target: Path, weights: Mapping[str, np.ndarray], packing: Packing, n_shards: int = 2
) -> dict[str, np.ndarray]:
    """Write the checkpoint `source` into `target` with its projections packed; return every weight's value as f32.

    Args:
        source: config.json and the tokenizer come from here.
        target: the folder, made if missing.
        weights: f32 by Hugging Face name; 2-D ones named *_proj.weight are packed, others stored as BF16.
        packing: how.
        n_shards: files, with an index.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name.startswith(_COPIED):
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": packing.quantization_config}))
    stored: dict[str, StoredTensor] = {}
    values: dict[str, np.ndarray] = {}
    for number, (name, weight) in enumerate(sorted(weights.items())):
        if name.endswith("_proj.weight"):
            parts, values[name] = pack_weight(weight, packing, seed=number)
            stored |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
        else:
            stored[name] = StoredTensor("BF16", weight.shape, encode(weight, "BF16"))
            values[name] = (to_bf16(weight).astype(np.uint32) << 16).view(np.float32)
    write_shards(target, stored, n_shards)
    return values


def write_shards(folder: Path, stored: Mapping[str, StoredTensor], n_shards: int) -> None:
    """Write the tensors over `n_shards` files, by turns, so that the parts of one weight lie in several."""
    weight_map = {}
    for shard in range(n_shards):
        file_name = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        names = list(stored)[shard::n_shards]
        write_stored(folder / file_name, {name: stored[name] for name in names})
        weight_map |= dict.fromkeys(names, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pack_weight(weight: np.ndarray, packing: Packing, seed: int = 0) -> tuple[dict[str, StoredTensor], np.ndarray]:
    """Return the stored parts of `weight`, f32 (n_out, n_in), by their suffixes, and its value after rounding."""
    n_in = weight.shape[1]
    group_of = np.arange(n_in) // (n_in if packing.group_size == -1 else packing.group_size)
    if packing.desc_act:
        group_of = np.random.default_rng(seed).permutation(group_of)
    codes, zeros, scales = _round_to_nearest(weight, group_of, packing)
    value = (codes.astype(np.float64) - zeros[:, group_of]) * scales[:, group_of].astype(np.float64)
    if packing.method == "awq":
        parts = {
            "qweight": _words_of_awq(codes.T),
            "qzeros": _words_of_awq(zeros.T),
            "scales": np.ascontiguousarray(scales.T),
        }
    else:
        offset = 1 if packing.checkpoint_format == "gptq" else 0
        parts = {
            "qweight": np.ascontiguousarray(_words_in_order(codes, packing.bits).T),
            "qzeros": _words_in_order(zeros.T - offset, packing.bits),
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": group_of.astype(np.int32),
        }
    dtypes = {"i": "I32", "f": "F16"}
    stored = {
        part: StoredTensor(dtypes[array.dtype.kind], array.shape, array.tobytes()) for part, array in parts.items()
    }
    return stored, value.astype(np.float32)


def _round_to_nearest(
    weight: np.ndarray, group_of: np.ndarray, packing: Packing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes (n_out, n_in), zeros and f16 scales (n_out, n_groups). Zeros are 1 or more, as "gptq" needs."""
    largest = 2**packing.bits - 1
    n_groups = int(group_of.max()) + 1
    zeros = np.zeros((weight.shape[0], n_groups), np.int64)
    scales = np.zeros(zeros.shape, np.float16)
    for group in range(n_groups):
        members = weight[:, group_of == group]
        low, high = np.minimum(members.min(axis=1), 0), np.maximum(members.max(axis=1), 0)
        if packing.symmetric:
            high = np.maximum(-low, high)
            low = -high
        scales[:, group] = np.maximum((high - low) / largest, 1e-5).astype(np.float16)
        zeros[:, group] = np.clip(np.round(-low / scales[:, group].astype(np.float64)), 1, largest)
        if packing.symmetric:
            zeros[:, group] = 2 ** (packing.bits - 1)
    codes = np.round(weight / scales[:, group_of].astype(np.float64)) + zeros[:, group_of]
    return np.clip(codes, 0, largest).astype(np.int64), zeros, scales


def _words_of_awq(numbers: np.ndarray) -> np.ndarray:
    """Return int32 (n, outputs / 8) of 4-bit numbers (n, outputs)."""
    eights = numbers.reshape(numbers.shape[0], -1, 8).astype(np.uint64)
    words = sum(eights[:, :, output] * 16**nibble for nibble, output in enumerate(_AWQ_OUTPUT_OF_NIBBLE))
    return np.asarray(words).astype(np.uint32).view(np.int32)


def _words_in_order(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Return int32 (n, m * bits / 32) of numbers (n, m), the first of each word in its lowest bits."""
    together = numbers.reshape(numbers.shape[0], -1, 32 // bits).astype(np.uint64)
    words = sum(together[:, :, place] * (2**bits) ** place for place in range(32 // bits))
    return np.asarray(words).astype(np.uint32).view(np.int32)
