"""The compiled hot path of generation (token_path.c): finding it, and the steps it may compute without Python.

    llama.cpp's scheduler ─► token_path_run ─┬─► all routed experts there: ggml
                                             └─► anything else: Python (token_step.py, batch_step.py and the others)

Optional: without it everything goes through Python, with the same results. The C side holds pointers only; what they
point to is kept alive here. Knows nothing of pools: a step's `ready` table says where experts are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.extension import load_extension
from qwenctl.moe import ggml_abi as abi

MOST_USED = 64  # experts of a token
N_SAMPLES = 4096
LOG_STEPS = 64
_TABLE_SIZE = 4096
_NAME = "_token_path"

Compute = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class TokenStepStruct(ctypes.Structure):
    """`struct token_step`."""

    _fields_ = (
        ("uid", ctypes.c_uint64),
        ("ids", ctypes.c_void_p),
        ("ready", ctypes.c_void_p),
        ("base", ctypes.c_uint64),
        ("stride", ctypes.c_uint64),
        ("down_offset", ctypes.c_uint64),
        ("gates", ctypes.c_void_p),
        ("downs", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("graph", ctypes.c_void_p),
        ("log", ctypes.c_void_p),
        ("n_used", ctypes.c_int32),
        ("n_ranked", ctypes.c_int32),
        ("log_steps", ctypes.c_int32),
        ("n_logged", ctypes.c_int32),
    )


class TokenPathStruct(ctypes.Structure):
    """`struct token_path`."""

    _fields_ = (
        ("compute", ctypes.c_void_p),
        ("cpu", ctypes.c_void_p),
        ("fallback", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("mask", ctypes.c_uint64),
        ("uid_at", ctypes.c_uint64),
        ("is_off", ctypes.c_int64),
        ("n_steps", ctypes.c_int64),
        ("compute_ns", ctypes.c_int64),
        ("n_samples", ctypes.c_int64),
        ("own_ns", ctypes.c_int32 * N_SAMPLES),
    )


@dataclass(frozen=True, slots=True)
class ExpertWords:
    """What a graph of products an expert wants to be told: addresses.

    Attributes:
        base, stride, down_offset: address of slot 0, bytes from slot to slot, offset of the last matrix.
        gates, downs: addresses of the words that take the addresses of first and last matrices.
        graph: address of the graph.
    """

    base: int
    stride: int
    down_offset: int
    gates: Sequence[int]
    downs: Sequence[int]
    graph: int


class LoggedStep:
    """One layer's step for the compiled path, and the log of its uses.

    Args:
        uid: of llama.cpp's graph.
        ids: address of the routed ids, i32, followed by those that the router liked less.
        n_used: experts that are routed to.
        n_ranked: experts that `ids` names.
        ready: int32 (n_experts,) slot of each expert, -1 where it is not there; kept up to date by its owner.
        target: a graph of ours and where its addresses go, or int32 (n_used,) for the slots' numbers, with which
            llama.cpp's own graph is computed.
    """

    def __init__(  # noqa: PLR0917 - the fields of a C struct
        self,
        uid: int,
        ids: int,
        n_used: int,
        n_ranked: int,
        ready: npt.NDArray[np.int32],
        target: ExpertWords | npt.NDArray[np.int32],
    ) -> None:
        self._n_used = n_used
        self._log = np.zeros((LOG_STEPS, n_ranked), dtype=np.int32)
        self.struct = TokenStepStruct(
            uid=uid,
            ids=ids,
            ready=ready.ctypes.data,
            log=self._log.ctypes.data,
            n_used=n_used,
            n_ranked=n_ranked,
            log_steps=LOG_STEPS,
        )
        self._kept: tuple[Any, ...] = (ready, target)
        if isinstance(target, ExpertWords):
            gates, downs = (np.array(words, dtype=np.uint64) for words in (target.gates, target.downs))
            self.struct.base, self.struct.stride = target.base, target.stride
            self.struct.down_offset, self.struct.graph = target.down_offset, target.graph
            self.struct.gates, self.struct.downs = gates.ctypes.data, downs.ctypes.data
            self._kept += (gates, downs)
        else:
            self.struct.numbers = target.ctypes.data

    def drain(self) -> Iterator[tuple[list[int], npt.NDArray[np.int32] | None]]:
        """Yield what was routed in each step since the last call, and the ranking, int32 (1, n_ranked); empty the log.

        To be used up before the next step is computed.
        """
        n_logged, self.struct.n_logged = self.struct.n_logged, 0
        for number in range(n_logged):
            row = self._log[number : number + 1]
            yield row[0, : self._n_used].tolist(), row if row.shape[1] > self._n_used else None


class TokenPath:
    """The compiled path of one opened model.

    Args:
        library: as `find_token_path` returns it.
        compute: address of ggml_backend_graph_compute.
        cpu: the backend that computes.
    """

    def __init__(self, library: ctypes.CDLL, compute: int, cpu: int) -> None:
        self._library = library
        self._table = np.zeros(_TABLE_SIZE, dtype=np.uint64)
        self._steps: dict[int, LoggedStep] = {}
        self._struct = TokenPathStruct(
            compute=compute,
            cpu=cpu,
            table=self._table.ctypes.data,
            mask=_TABLE_SIZE - 1,
            uid_at=abi.ggml_cgraph.uid.offset,
        )

    def attach(self, fallback: Any) -> int:
        """Make this the process's path; returns the address of the function for ggml_backend_i.graph_compute.

        Args:
            fallback: ctypes function (backend, graph) → status for all that is not computed here.
        """
        self._struct.fallback = ctypes.cast(fallback, ctypes.c_void_p).value
        self._library.token_path_attach(ctypes.addressof(self._struct))
        return int(ctypes.cast(self._library.token_path_run, ctypes.c_void_p).value or 0)

    def add(self, step: LoggedStep) -> None:
        """Compute a step here from now on."""
        index = step.struct.uid & (_TABLE_SIZE - 1)
        self._steps[index] = step
        self._table[index] = ctypes.addressof(step.struct)

    def enable(self, is_on: bool) -> None:
        """Compute steps here, or leave all to Python."""
        self._struct.is_off = not is_on

    def forget(self, uid: int) -> None:
        """Compute the step of a graph no more."""
        index = uid & (_TABLE_SIZE - 1)
        if index in self._steps and self._steps[index].struct.uid == uid:
            self._table[index] = 0
            del self._steps[index]

    @property
    def n_steps(self) -> int:
        """Steps computed here."""
        return int(self._struct.n_steps)

    @property
    def compute_ns(self) -> int:
        """Nanoseconds in ggml."""
        return int(self._struct.compute_ns)

    def own_ns(self) -> list[int]:
        """Return the last samples of the path's own time, nanoseconds a step."""
        return list(self._struct.own_ns[: min(int(self._struct.n_samples), N_SAMPLES)])

    def reset(self) -> None:
        """Count from zero."""
        self._struct.n_steps = self._struct.compute_ns = self._struct.n_samples = 0


def find_token_path() -> ctypes.CDLL | None:
    """Return the compiled library, None where there is none: it was not built, or cannot be loaded."""
    library = load_extension(Path(__file__).parent, _NAME, "token_path_attach", "token_path_run")
    if library is not None:
        library.token_path_attach.argtypes = [ctypes.c_void_p]
        library.token_path_attach.restype = None
        library.token_path_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library
