"""What llama.cpp would allocate for a model and a context, in its own words: nothing is read and nothing allocated.

`measure` writes a GGUF of a header alone, as large as the real one but with a hole for its weights, and has a child
process open it with `no_alloc` (llama_model_params; what common/fit.cpp does). llama.cpp then logs the sizes of all it
would have made. A file that it refuses may end the child: this file run as a script.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NO_MMAP = 0  # enum llama_load_mode
_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
_ROPE_SECTIONS = (11, 11, 10, 0)  # Qwen3.5's; llama.cpp demands some, no size depends on them
_TIMEOUT_S = 300
_SIZES = {
    "kv": r"llama_kv_cache: size =\s*([\d.]+) MiB",
    "states": r"llama_memory_recurrent: size =\s*([\d.]+) MiB",
    "compute": r"compute buffer size =\s*([\d.]+) MiB",
    "logits": r"output buffer size =\s*([\d.]+) MiB",
}


@dataclass(frozen=True, slots=True)
class Context:
    """A context to be made; `n_cells` of each sequence."""

    n_cells: int
    n_parallel: int = 1
    n_ubatch: int = 512
    kv_type: str = "f16"
    flash: bool = True


@dataclass(frozen=True, slots=True)
class Allocated:
    """Bytes by what they are for, to llama.cpp's hundredth of a MiB."""

    kv: int
    states: int
    compute: int
    logits: int

    @property
    def cells(self) -> int:
        """KV cache and states."""
        return self.kv + self.states


def measure(outline: Any, output: Any, contexts: Sequence[Context]) -> list[Allocated]:
    """Return what llama.cpp would allocate for each context.

    Args:
        outline: a quant.model_outline.ModelOutline.
        output: the quant.recipe.OutputType of the file.
        contexts: to be made, one after the other.

    Raises:
        AssertionError: llama.cpp refused the file or a context, or died.
    """
    with tempfile.TemporaryDirectory(prefix="plan-check-") as folder:
        path = Path(folder, "model.gguf")
        write_header(outline, output, path)
        job = json.dumps({"path": str(path), "contexts": [asdict(one) for one in contexts]})
        command = [sys.executable, __file__]
        run = subprocess.run(command, input=job, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if run.returncode:
        raise AssertionError(f"{outline.name}: exit {run.returncode}: {run.stderr[-1000:]}")
    return [Allocated(**one) for one in json.loads(run.stdout)]


def write_header(outline: Any, output: Any, path: Path) -> None:
    """Write the file without its weights: they are a hole, as large as they would be."""
    from quant.gguf_write import GgufField, GgufTensor, GgufValueType, plan_layout

    kinds = {str: GgufValueType.STRING, float: GgufValueType.FLOAT32, int: GgufValueType.UINT32}
    metadata = {key: GgufField(kinds[type(value)], value) for key, value in outline.metadata.items()}
    metadata["tokenizer.ggml.model"] = GgufField(GgufValueType.STRING, "no_vocab")
    if outline.architecture.startswith("qwen35"):
        key = f"{outline.architecture}.rope.dimension_sections"
        metadata[key] = GgufField(GgufValueType.INT32, _ROPE_SECTIONS)
    types = outline.types_for(output)
    layout = plan_layout(metadata, [GgufTensor(name, shape, types[name]) for name, shape in outline.shapes.items()])
    with path.open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.total_bytes)


def _child() -> None:
    """Answer the job on standard input with a list of sizes on standard output."""
    job = json.load(sys.stdin)
    os.environ["GGML_NO_BACKTRACE"] = "1"
    import llama_cpp

    lines: list[str] = []
    log = llama_cpp.llama_log_callback(lambda _level, text, _data: lines.append(text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(log, None)
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.no_alloc, params.load_mode, params.use_extra_bufts = True, _NO_MMAP, False
    model = llama_cpp.llama_model_load_from_file(job["path"].encode(), params)
    if not model:
        raise SystemExit("".join(lines)[-1000:])
    found = []
    for one in job["contexts"]:
        lines.clear()
        context = llama_cpp.llama_init_from_model(model, _context_params(llama_cpp, Context(**one)))
        text = "".join(lines)
        if not context:
            raise SystemExit(text[-1000:])
        llama_cpp.llama_free(context)
        found.append({name: _sum_bytes(pattern, text) for name, pattern in _SIZES.items()})
    llama_cpp.llama_model_free(model)
    print(json.dumps(found))


def _context_params(llama_cpp: Any, one: Context) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = one.n_cells * one.n_parallel, one.n_parallel
    params.n_batch, params.n_ubatch = max(one.n_ubatch, 2048), one.n_ubatch
    params.n_outputs_max, params.kv_unified = one.n_parallel, False
    params.type_k = params.type_v = _TYPES[one.kv_type]
    params.flash_attn_type, params.no_perf = int(one.flash), True
    return params


def _sum_bytes(pattern: str, text: str) -> int:
    return round(sum(float(size) for size in re.findall(pattern, text)) * 2**20)


if __name__ == "__main__":
    _child()
