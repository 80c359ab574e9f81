"""Sees what weights are multiplied with while llama.cpp computes: the inputs of MUL_MAT and MUL_MAT_ID.

llama_context_params.cb_eval is asked about every node; the graph is computed up to each one that is wanted, and its
source 1, f32 (columns, rows, …), is read while it is still there. As llama-imatrix does it (collect_imatrix in
tools/imatrix/imatrix.cpp of llama.cpp 0c1e57098), with three differences:

    several weights of one input   a short survey batch finds them; from then on one of them is asked for
    offloaded experts              nothing of such a layer but its end is in llama.cpp's tensors, and cutting its graph
                                   into parts would forbid to compute it expert by expert; so the callback leaves those
                                   nodes alone, and the scheduler's own steps tell (moe/expert_watch.py)
    names                          only weights that the model's file has; never a view or the cache

What is computed stays the same. Knows nothing of what is done with the inputs.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from ctypes import c_int32, c_void_p
from pathlib import Path
from typing import Any, Literal

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed, ModelLoadFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.expert_session import OVERRIDE_PATTERN
from qwenctl.moe.ggml_calls import at
from qwenctl.services.activation_sums import ActivationSink, group_by_expert
from qwenctl.services.expert_offload import open_ggml

Mode = Literal["idle", "survey", "collect"]

_MUL_MAT, _MUL_MAT_ID = abi.GGML_OP["MUL_MAT"], abi.GGML_OP["MUL_MAT_ID"]
_OP_AT, _SRC_AT, _NAME_AT = (abi.TENSOR_OFFSETS[name] for name in ("op", "src", "name"))
_F32 = abi.GGML_TYPE["F32"]
_EXPERTS = re.compile(OVERRIDE_PATTERN.decode())
_FLOAT_BYTES = _ID_BYTES = 4


class ActivationProbe:
    """The callback of one llama_context, and what watches its offloaded experts. Must live as long as the context.

    Args:
        weights: shapes, in numpy order, of the weights to be measured, by name.
        sinks: get the inputs, under the name of the first (by name) of the weights that share one.

    Raises:
        ModelLoadFailed: an unknown build of llama.cpp, whose tensors cannot be read.
    """

    def __init__(self, weights: Mapping[str, tuple[int, ...]], sinks: Sequence[ActivationSink]) -> None:
        self.mode: Mode = "idle"
        self.experts_are_watched = False
        self.members: dict[str, tuple[str, ...]] = {}  # by their first: the weights that share an input
        self._weights, self._sinks = weights, sinks
        self._inputs: dict[tuple[int | str, int], list[str]] = {}  # of the survey: source tensors → weights
        self._followers: frozenset[str] = frozenset()
        self._error: BaseException | None = None
        self._memory = np.empty(0, np.uint8)
        library = ctypes.PyDLL(str(_checked_library()))
        self._tensor_get, self._nbytes = library.ggml_backend_tensor_get, library.ggml_nbytes
        self._tensor_get.restype, self._tensor_get.argtypes = (
            None,
            (c_void_p, c_void_p, ctypes.c_size_t, ctypes.c_size_t),
        )
        self._nbytes.restype, self._nbytes.argtypes = ctypes.c_size_t, (c_void_p,)
        self.callback: Any = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)

    def end_survey(self) -> None:
        """Learn from a batch that was computed in the mode "survey" which weights share an input."""
        self.members = {min(names): tuple(sorted(set(names))) for names in self._inputs.values()}
        self._followers = frozenset(name for first, names in self.members.items() for name in names if name != first)
        self._inputs.clear()
        self.mode = "idle"

    def raise_error(self) -> None:
        """Raise what was raised below C since the last call; call it after each llama_decode."""
        error, self._error = self._error, None
        if isinstance(error, ValueError):
            raise GenerationFailed(f"what this model multiplies cannot be read: {error}") from error
        if error is not None:
            raise error

    # --- llama.cpp's nodes -------------------------------------------------------------------------------------------

    def _on_node(self, tensor: int, is_question: bool, _: object) -> bool:
        """Say whether a node is wanted, or take it. An exception must not reach ggml."""
        if self.mode == "idle":
            return False
        try:
            op = c_int32.from_address(tensor + _OP_AT).value
            if op not in (_MUL_MAT, _MUL_MAT_ID):
                return False
            name = _weight_name(c_void_p.from_address(tensor + _SRC_AT).value or 0)
            if is_question:
                return self._wants(tensor, name, op)
            self._take(tensor, name, op)
        except BaseException as error:
            self._error = self._error or error
        return True

    def _wants(self, tensor: int, name: str, op: int) -> bool:
        if name not in self._weights or name in self._followers:
            return False
        if self.experts_are_watched and _EXPERTS.fullmatch(name):
            return False
        node = at(tensor)
        if at(node.src[1]).type != _F32:
            return False
        if self.mode == "survey":
            ids = node.src[2] if op == _MUL_MAT_ID else 0
            self._inputs.setdefault((node.src[1], ids or 0), []).append(name)
            return False
        return True

    def _take(self, tensor: int, name: str, op: int) -> None:
        node = at(tensor)
        x = self._read(node.src[1])
        if x.size == 0:  # the last layer, when nothing is asked for but the cache
            return
        if op == _MUL_MAT_ID:
            self._take_indexed(name, int(at(node.src[0]).ne[2]), x[0], self._read_ids(node.src[2]))
            return
        weights = at(node.src[0])
        n_matrices = int(weights.ne[2] * weights.ne[3])
        if n_matrices == 1:
            self._tell_rows(name, x.reshape(-1, x.shape[-1]))
            return
        n_outer, n_inner, n_rows, n_columns = x.shape
        matrices = [
            (outer % weights.ne[3]) * weights.ne[2] + inner % weights.ne[2]
            for outer in range(n_outer)
            for inner in range(n_inner)
        ]
        counts = [n_rows] * len(matrices)
        for sink in self._sinks:
            sink.add_grouped(name, n_matrices, matrices, counts, x.reshape(-1, n_columns))

    def _take_indexed(self, name: str, n_experts: int, x: npt.NDArray[np.float32], ids: npt.NDArray[np.int32]) -> None:
        """Take x, f32 (n_tokens, 1 or n_used, n_columns)."""
        if x.shape[1] == 1:
            for sink in self._sinks:
                sink.add_routed(name, n_experts, x[:, 0], ids)
            return
        groups = group_by_expert(x, ids)
        for sink in self._sinks:
            sink.add_grouped(name, n_experts, *groups)

    def _tell_rows(self, name: str, rows: npt.NDArray[np.float32]) -> None:
        for sink in self._sinks:
            sink.add_rows(name, rows)

    def _read(self, address: int) -> npt.NDArray[np.float32]:
        """Return a tensor's data as f32 (ne3, ne2, ne1, ne0), wherever it lies; good until the next call."""
        tensor = at(address)
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        if 0 in shape:
            return np.empty(shape, np.float32)
        return np.lib.stride_tricks.as_strided(self._fetch(address).view(np.float32), shape, strides, writeable=False)

    def _read_ids(self, address: int) -> npt.NDArray[np.int32]:
        """Return i32 (n_tokens, n_used), a copy; in memory the rows of the ids lie apart."""
        tensor = at(address)
        data = np.zeros(int(self._nbytes(address)) // _ID_BYTES, np.int32)
        self._tensor_get(address, data.ctypes.data, 0, data.nbytes)
        rows = np.lib.stride_tricks.as_strided(data, (tensor.ne[1], tensor.ne[0]), (tensor.nb[1], tensor.nb[0]))
        return rows.copy()

    def _fetch(self, address: int) -> npt.NDArray[np.uint8]:
        n_bytes = int(self._nbytes(address))
        if self._memory.nbytes < n_bytes:
            self._memory = np.empty(n_bytes, np.uint8)
        self._tensor_get(address, self._memory.ctypes.data, 0, n_bytes)
        return self._memory[: n_bytes - n_bytes % _FLOAT_BYTES]

    # --- offloaded experts: an ExpertWatch ---------------------------------------------------------------------------

    def saw_input(self, layer: int, x: npt.NDArray[np.float32], routed: npt.NDArray[np.int32]) -> None:
        """See `ExpertWatch`."""
        names = [name for name in self._expert_names(layer) if not name.endswith("_down_exps.weight")]
        if self.mode == "survey":
            self._inputs[f"input {layer}", 0] = names
        elif self.mode == "collect":
            for sink in self._sinks:
                sink.add_routed(min(names), self._weights[names[0]][0], x, routed)

    def saw_hidden(
        self, layer: int, experts: Sequence[int], counts: Sequence[int], rows: npt.NDArray[np.float32]
    ) -> None:
        """See `ExpertWatch`."""
        name = f"blk.{layer}.ffn_down_exps.weight"
        if self.mode == "survey":
            self._inputs[f"hidden {layer}", 0] = [name]
        elif self.mode == "collect":
            for sink in self._sinks:
                sink.add_grouped(name, self._weights[name][0], experts, counts, rows)

    def _expert_names(self, layer: int) -> list[str]:
        names = (f"blk.{layer}.ffn_{kind}_exps.weight" for kind in ("gate", "up", "gate_up", "down"))
        return [name for name in names if name in self._weights]


def _checked_library() -> Path:
    """Return ggml's library, whose structs are known."""
    try:
        return open_ggml().base_path
    except UnknownBuild as error:
        raise ModelLoadFailed(f"activations cannot be read: {error}", "run `qwenctl doctor`") from error


def _weight_name(tensor: int) -> str:
    """Return a weight's name in the model's file: copies on devices are called "CUDA0#blk.0.attn_k.weight#0"."""
    name = ctypes.string_at(tensor + _NAME_AT).decode("utf-8", "replace")
    return name.split("#")[1] if "#" in name else name
