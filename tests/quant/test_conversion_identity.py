"""`--quality exact` gives in one pass the bytes of two: (our BF16 GGUF → llama_model_quantize).

On the machine at hand and with the library at hand: rounding in k-quants depends on both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from quant.conversion_plan import plan_conversion
from quant.gguf_read import read_gguf
from quant.recipe import STOCK_TYPES
from tests.quant.conversion_runs import SMALLEST, run
from tests.tiny_checkpoint import write_checkpoint

_QUANTIZE = """
import ctypes, json, sys
import llama_cpp
from qwenctl.services.quantize_worker import Request, quantize
quiet = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
for request in json.load(sys.stdin):
    status = quantize(Request(**request, n_threads=3, alignment=4096, allow_requantize=False, dry_run=False))
    if status:
        raise SystemExit(f"llama_model_quantize returned {status} for {request}")
"""


def quantize_with_llama(source: Path, types: Iterable[str], folder: Path) -> Mapping[str, Path]:
    """Let llama.cpp make `types` of `source`, in one child process, because it aborts when it fails."""
    outputs = {name: folder / f"llama-{name}.gguf" for name in types}
    requests = [
        {"source": str(source), "out": str(path), "ftype_id": STOCK_TYPES[name].ftype_id}
        for name, path in outputs.items()
    ]
    command = [sys.executable, "-c", _QUANTIZE]
    subprocess.run(command, input=json.dumps(requests), text=True, check=True, timeout=300)
    return outputs


def tensor_bytes(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = path.read_bytes()
    return {
        name: (info.dtype, info.shape, data[info.offset_bytes : info.offset_bytes + info.n_bytes])
        for name, info in read_gguf(path).tensors.items()
    }


def check(source: Path, types: Iterable[str], folder: Path) -> None:
    run(plan_conversion(source, STOCK_TYPES["bf16"]), folder / "bf16.gguf")
    for name, theirs in quantize_with_llama(folder / "bf16.gguf", types, folder).items():
        ours = folder / f"{name}.gguf"
        if not ours.exists():
            run(plan_conversion(source, STOCK_TYPES[name]), ours, n_threads=2, quality="exact")
        assert tensor_bytes(ours) == tensor_bytes(theirs), name


def test_every_output_type(tmp_path: Path) -> None:
    check(write_checkpoint(tmp_path / "source", SMALLEST), STOCK_TYPES, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixture", ["tiny_moe_folder", "tiny_moe_fused_folder", "tiny_qwen3_folder", "tiny_qwen2_folder"]
)
def test_every_layout(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    check(request.getfixturevalue(fixture), STOCK_TYPES, tmp_path)
