"""config.json's `quantization_config`: how the weights of an AWQ or GPTQ checkpoint are packed.

AutoAWQ, AutoGPTQ and GPTQModel write it under the same keys (AwqConfig and GPTQConfig of transformers). A layout that
`quant.codecs.int4_layout` does not know is refused by name. Which modules are packed is not read from here
(`modules_to_not_convert`): the tensors tell. Knows nothing of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quant.codecs.int4_layout import GptqFormat
from quant.errors import CheckpointError
from quant.json_fields import JsonFields
from quant.shown import shown

_KEY = "quantization_config"
_MAX_GROUP_SIZE = 1 << 20
_GPTQ_FORMATS: dict[str, GptqFormat] = {"gptq": "gptq", "gptq_v2": "gptq_v2"}
_HINT = "AWQ (gemm) and GPTQ checkpoints can be read; or convert the original BF16 checkpoint"


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """How packed weights are stored."""

    method: Literal["awq", "gptq"]
    bits: int
    group_size: int  # inputs that share a scale; -1: all of a row
    checkpoint_format: GptqFormat = "gptq"  # how GPTQ's zeros are stored
    desc_act: bool = False  # GPTQ: inputs belong to groups in any order, so g_idx must be there

    @property
    def label(self) -> str:
        """As it is shown for a tensor: AWQ-4bit."""
        return f"{self.method.upper()}-{self.bits}bit"

    @property
    def description(self) -> str:
        """In words, for messages."""
        groups = "one group a row" if self.group_size == -1 else f"groups of {self.group_size}"
        return f"{self.method.upper()}, {self.bits} bits, {groups}"

    @property
    def note(self) -> str:
        """A remark for whoever converts such a checkpoint."""
        return (
            f"the source is quantized already ({self.description}): the output holds its rounded weights, "
            "and rounding them once more loses more than converting the original would"
        )


def read_packed_format(fields: JsonFields) -> PackedFormat | None:
    """Return how the checkpoint's weights are packed, None where they are not.

    Args:
        fields: all of config.json.

    Raises:
        CheckpointError: quantized by a method or in a layout that cannot be read.
        JsonFileError: a field that is missing, or of a wrong type or out of bounds.
    """
    if not fields.has(_KEY):
        return None
    stated = fields.child(_KEY)
    method = stated.text("quant_method", "unknown method").lower()
    if method == "awq":
        return _awq(stated)
    if method == "gptq":
        return _gptq(stated)
    raise CheckpointError(f"{fields.path}: the weights are already quantized ({shown(method)})", _HINT)


def _awq(stated: JsonFields) -> PackedFormat:
    layout = stated.text("version", stated.text("checkpoint_format", "gemm")).lower()
    if layout != "gemm":
        raise _refusal(stated, f"AWQ version {shown(layout)}; only gemm can be read")
    if not stated.boolean("zero_point", True):
        raise _refusal(stated, "AWQ without zero points (zero_point is false)")
    bits = stated.integer("bits", 1, 32)
    if bits != 4:
        raise _refusal(stated, f"AWQ with {bits} bits; only 4 can be read")
    return PackedFormat("awq", bits, _group_size(stated))


def _gptq(stated: JsonFields) -> PackedFormat:
    layout = stated.text("checkpoint_format", "gptq").lower()
    if layout not in _GPTQ_FORMATS or stated.boolean("is_marlin_format", False):
        raise _refusal(stated, f"GPTQ format {shown(layout)}; only gptq and gptq_v2 can be read")
    bits = stated.integer("bits", 1, 32)
    if bits not in (2, 4, 8):
        raise _refusal(stated, f"GPTQ with {bits} bits; only 2, 4 and 8 can be read")
    if stated.text("pack_dtype", "int32") != "int32":
        raise _refusal(stated, "GPTQ packed into other words than int32 (pack_dtype)")
    others = [rule for rule in stated.child("dynamic").names() if not rule.startswith("-")]
    if others:
        raise _refusal(stated, f"GPTQ with settings of its own for some modules (dynamic: {shown(others[0])})")
    desc_act = stated.boolean("desc_act", False)
    return PackedFormat("gptq", bits, _group_size(stated), _GPTQ_FORMATS[layout], desc_act)


def _group_size(stated: JsonFields) -> int:
    size = stated.integer("group_size", -1, _MAX_GROUP_SIZE)
    if size == 0:
        raise stated.refuse("group_size", "must be -1 or the length of a group, not 0")
    return size


def _refusal(stated: JsonFields, what: str) -> CheckpointError:
    return CheckpointError(f"{stated.path}: the weights are already quantized: {what}", _HINT)
