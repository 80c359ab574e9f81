"""llama.cpp's own quantizer takes our importance matrices, and makes of them what ggml makes of their means."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from quant.codecs.native import encode_rows
from quant.conversion_plan import plan_conversion
from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_file import read_imatrix, write_imatrix
from quant.libggml import LibGgml
from quant.recipe import OUTPUT_TYPES
from quant.tensor_read import read_rows_f32
from tests.quant.conversion_runs import run
from tests.tiny_checkpoint import TinyModel, write_checkpoint


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("f32")
    model = TinyModel(n_layers=2, n_experts=4, dtype="F32", vocab_size=320)
    run(plan_conversion(write_checkpoint(folder / "source", model), OUTPUT_TYPES["f32"]), folder / "f32.gguf")
    return folder / "f32.gguf"


@pytest.fixture(scope="module")
def imatrix(f32: Path) -> Imatrix:
    """Statistics of all weights of the layers; one expert saw nothing."""
    random = np.random.default_rng(0)
    entries = {}
    for name, info in read_gguf(f32).tensors.items():
        if name.startswith("blk.") and len(info.shape) >= 2:
            n_matrices = info.shape[0] if len(info.shape) == 3 else 1
            counts = np.array([40, 0, 7, 300][:n_matrices], np.float32)
            sums = random.gamma(0.3, size=(n_matrices, info.shape[-1])) * counts[:, None]
            entries[name] = ImatrixEntry(sums.astype(np.float32), counts)
    return Imatrix(entries, ("a.txt",), 3, 512)


def quantized_by_llama_cpp(source: Path, out: Path, imatrix: Imatrix | None, ftype: int) -> Path:
    """Call `llama_model_quantize` as llama-quantize does: the means of all matrices of a tensor in a row."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = ftype, 1, True
    means, alive = [], []
    for name, entry in (imatrix.entries if imatrix else {}).items():
        alive.append(np.concatenate([entry.mean_squares(matrix) for matrix in range(entry.n_matrices)]))
        data = alive[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        means.append(llama_cpp.llama_model_imatrix_data(name.encode(), data, alive[-1].size))
    array = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))(*means)  # the last one has no name
    if means:
        params.imatrix = ctypes.cast(array, type(params.imatrix))
    overrides = (llama_cpp.llama_model_kv_override * 2)()  # see qwenctl/services/quantize_worker.py
    overrides[0].tag, overrides[0].key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, b"general.alignment"
    overrides[0].value.val_i64 = 32
    params.kv_overrides = ctypes.cast(overrides, type(params.kv_overrides))
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


def tensor_bytes(path: Path) -> dict[str, tuple[str, bytes]]:
    content = path.read_bytes()
    return {
        name: (info.dtype, content[info.offset_bytes : info.offset_bytes + info.n_bytes])
        for name, info in read_gguf(path).tensors.items()
    }


@pytest.mark.parametrize("type_name", ["Q4_K", "IQ4_XS"])
def test_llama_cpp_quantizes_with_our_importance_matrix(
    f32: Path, imatrix: Imatrix, lib: LibGgml, tmp_path: Path, type_name: str
) -> None:
    ftype = {"Q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S, "IQ4_XS": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_XS}[type_name]
    write_imatrix(imatrix, tmp_path / "imatrix.gguf")
    read = read_imatrix(tmp_path / "imatrix.gguf")
    weighted = tensor_bytes(quantized_by_llama_cpp(f32, tmp_path / "weighted.gguf", read, ftype))
    plain = tensor_bytes(quantized_by_llama_cpp(f32, tmp_path / "plain.gguf", None, ftype))
    kind = GGML_TYPES[type_name]
    n_compared = 0
    for name, info in read_gguf(f32).tensors.items():
        if weighted[name][0] != type_name or name not in read.entries:
            continue
        assert weighted[name][1] != plain[name][1], name
        entry = read.entries[name]
        rows = read_rows_f32(info).reshape(entry.n_matrices, -1, info.n_columns)
        expected = b"".join(
            encode_rows(lib, kind, np.ascontiguousarray(rows[matrix]), imatrix=entry.mean_squares(matrix)).tobytes()
            for matrix in range(entry.n_matrices)
        )
        assert weighted[name][1] == expected, name
        n_compared += 1
    assert n_compared == 2 * 7
