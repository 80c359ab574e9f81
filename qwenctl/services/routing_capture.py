"""Reads the experts that each token is sent to out of llama.cpp's computation, whatever computes the experts.

llama.cpp names the experts of block N by the router's liking "ffn_moe_argsort-N", int32, n_experts × n_tokens, and the
routed ones "ffn_moe_topk-N", n_used × n_tokens, a view of the former; some models choose without sorting, and have the
latter alone. llama_context_params.cb_eval is asked about every node of the graph, some 60 a layer, and the graph is
computed up to each node that it wants to see. What is computed stays the same; it takes about 0.3 ms a layer longer
(the demo on a busy machine: 2.4 to 3.7 ms a token of 4 layers).

Shape and row stride come from ggml's own functions, so no struct layout is assumed; the ids are fetched through their
buffer, so they may lie on a GPU. As the expert scheduler does, whole rankings are told of what is generated, the routed
experts alone of prompts. Knows nothing of the file's layout and of what is done with the ids.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from quant.libggml import load_libggml
from qwenctl.core import ModelInfo
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.moe.waves import DECODE_TOKENS
from qwenctl.telemetry.routing_trace import RoutingSink, TraceHeader, TraceWriter

_SORTED, _CHOSEN = b"ffn_moe_argsort-", b"ffn_moe_topk-"
_ID_BYTES = 4

_FUNCTIONS = (  # ggml.h and ggml-backend.h of llama.cpp 0c1e57098
    ("ggml_get_name", c_char_p, (c_void_p,)),
    ("ggml_nelements", c_int64, (c_void_p,)),
    ("ggml_nrows", c_int64, (c_void_p,)),
    ("ggml_nbytes", c_size_t, (c_void_p,)),
    ("ggml_backend_tensor_get", None, (c_void_p, c_void_p, c_size_t, c_size_t)),
)


def open_trace(path: Path, info: ModelInfo) -> TraceWriter:
    """Begin a trace file for an opened model.

    Raises:
        InvalidRequest: the model has no experts, or the file cannot be made.
    """
    if info.n_experts < 1:
        raise no_experts(info.path, info.architecture)
    return TraceWriter(path, TraceHeader(info.name, info.n_layers, info.n_experts, info.n_experts_used))


def no_experts(path: str, architecture: str) -> InvalidRequest:
    """Return the error for a model without routing."""
    return InvalidRequest(f"{path} has no experts: it is a dense model ({architecture})", "name a Mixture-of-Experts")


class RoutingCapture:
    """The callback of one llama_context. Must live as long as the context.

    Args:
        sink: gets every MoE layer of every computed batch, on the thread that computes.
        n_used: experts that a token is routed to.
    """

    def __init__(self, sink: RoutingSink, n_used: int) -> None:
        self._sink, self._n_used = sink, n_used
        self._sorted: set[int] = set()  # layers whose ranking was seen: their chosen ones are its beginning
        self._error: BaseException | None = None
        library = ctypes.PyDLL(str(load_libggml().path))  # keeps Python's lock: shorter than giving it back
        for name, result, arguments in _FUNCTIONS:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._name_of, self._ggml = library.ggml_get_name, library
        self.callback: Any = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)

    def raise_error(self) -> None:
        """Raise what the sink raised since the last call; call it after each llama_decode.

        Raises:
            GenerationFailed: the sink refused the ids (ValueError): layers of this model route differently.
        """
        error, self._error = self._error, None
        if isinstance(error, ValueError):
            raise GenerationFailed(f"the routing of this model cannot be recorded: {error}") from error
        if error is not None:
            raise error

    def _on_node(self, tensor: int, is_question: bool, _: object) -> bool:
        """Say whether a node is wanted, or take it. An exception must not reach ggml."""
        try:
            name = self._name_of(tensor)
            if is_question:
                return bool(name.startswith(_SORTED)) or (
                    name.startswith(_CHOSEN) and int(name[len(_CHOSEN) :]) not in self._sorted
                )
            layer = int(name.rpartition(b"-")[2])
            if name.startswith(_SORTED):
                self._sorted.add(layer)
            self._take(tensor, layer)
        except BaseException as error:
            self._error = self._error or error
        return True

    def _take(self, tensor: int, layer: int) -> None:
        """Hand the ids of one layer to the sink.

        ggml_nbytes counts from the first element to the last: (n_tokens - 1) × stride + n_row × 4 (ggml.c).
        """
        n_tokens = int(self._ggml.ggml_nrows(tensor))
        if n_tokens == 0:  # the last layer, when nothing is asked for but the cache
            return
        n_row = int(self._ggml.ggml_nelements(tensor)) // n_tokens
        n_bytes = int(self._ggml.ggml_nbytes(tensor))
        stride = (n_bytes // _ID_BYTES - n_row) // (n_tokens - 1) if n_tokens > 1 else n_row
        ids = np.zeros((n_tokens, stride), dtype=np.int32)
        self._ggml.ggml_backend_tensor_get(tensor, ids.ctypes.data, 0, n_bytes)
        n_told = n_row if n_tokens <= DECODE_TOKENS else min(n_row, self._n_used)
        self._sink(layer, ids[:, :n_told].ravel().tolist(), n_tokens, n_told)
