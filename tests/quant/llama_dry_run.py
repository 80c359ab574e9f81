"""The oracle of the recipe: llama.cpp's own choice of types, from a dry run on sparse files.

`dry_run_types` writes GGUFs of headers alone, truncated to their full apparent size (some 100 KB on disk, even for
470 GB), and asks `llama_model_quantize` what it would do. A bad file makes llama.cpp abort, so all of it happens in a
child process: this file run as a script.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LINE = re.compile(
    r"\[ *\d+/ *\d+\] +(?P<name>\S+) +- \[[^\]]*\], type = +(?P<type>\w+), size = +[\d.]+ MiB"
    r"(?: -> +[\d.]+ MiB \((?P<new>\w+)\))?"
)


Tensors = Sequence[tuple[str, tuple[int, ...]]]


def dry_run_types(
    folder: Path, models: Mapping[str, tuple[Mapping[str, Any], Tensors]], requests: Sequence[tuple[int, bool]]
) -> dict[str, list[dict[str, str]]]:
    """Return by model, for each request (ftype id, has imatrix), the type name of every tensor, in capitals.

    `models` gives metadata and tensors (GGUF names, shapes in numpy order) by name. Vectors, norms and routers are F32
    in the file, all else BF16, as llama.cpp's converter writes them. The files in `folder` are removed afterwards.
    """
    paths = {name: folder / f"sparse-{i}.gguf" for i, name in enumerate(models)}
    try:
        for name, (metadata, tensors) in models.items():
            _write_sparse(paths[name], metadata, tensors)
        job = json.dumps({"paths": {name: str(path) for name, path in paths.items()}, "requests": list(requests)})
        command = [sys.executable, __file__]
        run = subprocess.run(command, input=job, capture_output=True, text=True, check=False, timeout=300)
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)
    if run.returncode:
        raise AssertionError(f"dry run exited {run.returncode}: {run.stderr[-2000:]}")
    answers: dict[str, list[dict[str, str]]] = json.loads(run.stdout)
    return answers


def _write_sparse(path: Path, metadata: Mapping[str, Any], tensors: Tensors) -> None:
    """Write the header with gguf-py, the reference writer, and leave the data section a hole."""
    import gguf

    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if key != "general.architecture":
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    n_bytes = 0
    for name, shape in tensors:
        fixed = len(shape) < 2 or name.endswith("_norm.weight") or "ffn_gate_inp" in name
        kind = gguf.GGMLQuantizationType.F32 if fixed else gguf.GGMLQuantizationType.BF16
        size = (4 if fixed else 2) * _product(shape)
        writer.add_tensor_info(name, shape, _numpy_dtype(fixed), size, raw_dtype=kind)
        n_bytes += -(-size // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + n_bytes)


def _numpy_dtype(fixed: bool) -> Any:
    import numpy as np

    return np.dtype(np.float32 if fixed else np.float16)


def _product(shape: Sequence[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _child(path: str, requests: list[list[Any]]) -> list[dict[str, str]]:
    import llama_cpp

    lines: list[bytes] = []
    log = llama_cpp.llama_log_callback(lambda _level, text, _data: lines.append(text))
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    nothing = (
        llama_cpp.llama_cpp.llama_model_imatrix_data * 1
    )()  # only the null that ends it: an imatrix without entries
    answers = []
    for ftype, has_imatrix in requests:
        lines.clear()
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.dry_run = ftype, True
        if has_imatrix:
            params.imatrix = nothing
        status = llama_cpp.llama_model_quantize(path.encode(), b"", ctypes.byref(params))
        text = b"".join(lines).decode()
        if status:
            raise SystemExit(f"ftype {ftype}: llama_model_quantize returned {status}: {text[-500:]}")
        answers.append({m["name"]: (m["new"] or m["type"]).upper() for m in _LINE.finditer(text)})
    return answers


if __name__ == "__main__":
    job = json.load(sys.stdin)
    json.dump({name: _child(path, job["requests"]) for name, path in job["paths"].items()}, sys.stdout)
