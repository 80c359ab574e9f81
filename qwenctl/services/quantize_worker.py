"""The child process that calls `llama_model_quantize`: a GGUF that makes llama.cpp abort ends only this process.

Request: one line of JSON on standard input, the fields of `Request`. Answers: lines of JSON on standard output,

    {"n_weights_done": 1048576, "tensor": "blk.0.ffn_up.weight"}        as each tensor begins
    {"finished": true, "n_bytes": 123, "errors": []}                   last; n_bytes is an estimate of a dry run

Whatever native code prints goes to standard error. The process ends when standard input does: its parent has gone then.
Run by quantization.py; knows nothing of it.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import threading
from dataclasses import dataclass
from typing import IO, Any

import llama_cpp

_TENSOR = re.compile(r"\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s+- \[(?P<shape>[\d, ]+)\]")
_TOTAL = re.compile(r"quant size\s*=\s*(?P<mib>[\d.]+) MiB")
_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR


@dataclass(frozen=True, slots=True)
class Request:
    """What to do. `alignment` is that of the source."""

    source: str
    out: str
    ftype_id: int
    n_threads: int
    alignment: int
    allow_requantize: bool
    dry_run: bool


class _LogReader:
    """Turns llama.cpp's log, which comes in pieces of lines, into answers."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._line = ""
        self._n_weights_next = 0
        self.n_bytes = 0
        self.errors: list[str] = []

    def read(self, level: int, text: str) -> None:
        """Take one piece."""
        self._line += text
        tensor = _TENSOR.search(self._line)
        if tensor:
            self._begin_tensor(tensor)
            self._line = ""
        while "\n" in self._line:
            line, self._line = self._line.split("\n", 1)
            self._end_line(level, line)

    def _begin_tensor(self, found: re.Match[str]) -> None:
        self.answer({"n_weights_done": self._n_weights_next, "tensor": found["name"]})
        self._n_weights_next += math.prod(int(length) for length in found["shape"].split(","))

    def _end_line(self, level: int, line: str) -> None:
        total = _TOTAL.search(line)
        if total:
            self.n_bytes = int(float(total["mib"]) * (1 << 20))
        if level == _LOG_ERROR and line.strip():
            self.errors.append(line.strip())

    def answer(self, record: dict[str, Any]) -> None:
        """Write one answer."""
        self._answers.write(json.dumps(record) + "\n")
        self._answers.flush()


def main() -> None:
    """Serve one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ["GGML_NO_BACKTRACE"] = "1"  # no debugger on an abort
    request = Request(**json.loads(_read_line(0)))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reader = _LogReader(answers)
    callback = llama_cpp.llama_log_callback(lambda level, text, _: reader.read(level, text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    status = quantize(request)
    if status and not reader.errors:
        reader.errors.append(f"llama_model_quantize returned {status}")
    reader.answer({"finished": status == 0, "n_bytes": reader.n_bytes, "errors": reader.errors})
    os._exit(0)  # the other thread still reads


def quantize(request: Request) -> int:
    """Call `llama_model_quantize`; 0 is success."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = request.ftype_id
    params.nthread = request.n_threads
    params.allow_requantize = request.allow_requantize
    params.dry_run = request.dry_run
    overrides = _overrides(request.alignment)
    params.kv_overrides = ctypes.cast(overrides, type(params.kv_overrides))
    status: int = llama_cpp.llama_model_quantize(request.source.encode(), request.out.encode(), ctypes.byref(params))
    return status


def _overrides(alignment: int) -> Any:
    """Return the array that states the alignment which the output has.

    llama_model_quantize (0c1e57098) pads tensors to 32 bytes whatever `general.alignment` says, but copies that key:
    of a source with another alignment it would make a file that no reader accepts.
    """
    array = (llama_cpp.llama_model_kv_override * 2)()  # the last one has no key and ends the list
    if alignment != 32:
        array[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
        array[0].key = b"general.alignment"
        array[0].value.val_i64 = 32
    return array


def _read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(fd, 1 << 16)):
        line += piece
    return line


def _end_with_parent() -> None:
    while os.read(0, 1 << 10):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
