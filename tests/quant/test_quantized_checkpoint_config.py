"""quantization_config: what AutoAWQ, AutoGPTQ and GPTQModel write is understood, all else refused by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from quant.errors import CheckpointError, JsonFileError, QuantError
from quant.json_fields import JsonFields
from quant.quantized_checkpoint_config import PackedFormat, read_packed_format

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


def _read(values: object) -> PackedFormat | None:
    return read_packed_format(JsonFields(Path("config.json"), {"quantization_config": values}))


def test_no_quantization() -> None:
    assert read_packed_format(JsonFields(Path("config.json"), {"hidden_size": 1})) is None
    assert _read(None) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (AWQ | {"modules_to_not_convert": ["lm_head"], "backend": "autoawq"}, PackedFormat("awq", 4, 128)),
        (AWQ | {"version": "GEMM", "group_size": -1}, PackedFormat("awq", 4, -1)),
        ({"quant_method": "AWQ", "bits": 4, "group_size": 32}, PackedFormat("awq", 4, 32)),
        (GPTQ, PackedFormat("gptq", 4, 128)),
        (GPTQ | {"bits": 8, "group_size": -1, "desc_act": True}, PackedFormat("gptq", 8, -1, "gptq", True)),
        (GPTQ | {"checkpoint_format": "gptq_v2", "pack_dtype": "int32"}, PackedFormat("gptq", 4, 128, "gptq_v2")),
        (GPTQ | {"dynamic": {r"-:.*mlp\.gate.*": {}}, "damp_percent": 0.1}, PackedFormat("gptq", 4, 128)),
    ],
)
def test_what_is_understood(values: dict[str, Any], expected: PackedFormat) -> None:
    assert _read(values) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quant_method": "fp8"}, r"already quantized \('fp8'\)"),
        ({"bits": 4}, r"already quantized \('unknown method'\)"),
        (AWQ | {"version": "gemv"}, "AWQ version 'gemv'; only gemm"),
        (AWQ | {"version": "exllama"}, "AWQ version 'exllama'; only gemm"),
        (AWQ | {"zero_point": False}, "AWQ without zero points"),
        (AWQ | {"bits": 3}, "AWQ with 3 bits; only 4"),
        (GPTQ | {"bits": 3}, "GPTQ with 3 bits; only 2, 4 and 8"),
        (GPTQ | {"checkpoint_format": "marlin"}, "GPTQ format 'marlin'"),
        (GPTQ | {"is_marlin_format": True}, "only gptq and gptq_v2"),
        (GPTQ | {"pack_dtype": "int16"}, "pack_dtype"),
        (GPTQ | {"dynamic": {"+:layers.0": {"bits": 8}}}, "some modules .dynamic: '.:layers.0'"),
    ],
)
def test_what_cannot_be_read(values: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        _read(values)
    assert caught.value.hint is not None
    assert caught.value.message.startswith("config.json: the weights are already quantized")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["awq"], "quantization_config must be an object"),
        ({"quant_method": 4}, "quantization_config.quant_method must be a string"),
        (AWQ | {"bits": "4"}, "bits must be an integer, not '4'"),
        (AWQ | {"bits": None}, "bits is missing"),
        (AWQ | {"group_size": 0}, "group_size must be -1 or the length of a group, not 0"),
        (AWQ | {"group_size": -2}, "group_size must lie between"),
        (AWQ | {"zero_point": "yes"}, "zero_point must be true or false"),
        (GPTQ | {"desc_act": 1}, "desc_act must be true or false"),
        (GPTQ | {"group_size": None}, "group_size is missing"),
        (GPTQ | {"dynamic": [1]}, "dynamic must be an object"),
    ],
)
def test_fields_of_the_wrong_kind(values: object, said: str) -> None:
    with pytest.raises(JsonFileError, match=said):
        _read(values)


@pytest.mark.parametrize("key", [*AWQ, *GPTQ])
@pytest.mark.parametrize("value", [None, True, -1, 1 << 70, 1.5, "", [], {}])
def test_nothing_but_our_errors(key: str, value: object) -> None:
    for values in (AWQ, GPTQ):
        with suppress(QuantError):
            _read(values | {key: value})
