"""How a model is to be opened: context, parallelism, threads. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.rpc_servers import check_endpoints

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

Purpose = Literal["batch", "serve"]

MAX_SPLIT = 1e9
MAX_PARALLEL = 192  # of llama.cpp's 256 sequences; the others are for prefixes that are kept


@dataclass(frozen=True, slots=True)
class StepTimesOptions:
    """Where what steps take is kept for the next choice of `n_parallel`, and how it came about this time."""

    cache_dir: Path
    chosen_for: Purpose | None = None  # None: somebody said how many sequences


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a user may decide about an opened model.

    The KV cache comes in two layouts:

    - Without `n_cells`, each of the `n_parallel` sequences has `n_ctx` cells of its own. Attention then costs what each
      sequence's own length costs, and its text does not depend on what else runs. Memory: n_parallel × n_ctx cells.
    - With `n_cells`, all share that many, and take what they need: prefixes are shared without a copy, and prompts are
      computed together. When cells run out, the newest request waits and is computed again later. On a CPU every token
      is held against the cells of all sequences, so this is slower when many are long.

    Raises:
        InvalidRequest: a value is out of range; the message names it.
    """

    n_ctx: int | None = None  # tokens a sequence may hold, prompt and answer; None: 8192, less with n_parallel > 4
    n_parallel: int = 1  # sequences computed at the same time
    n_cells: int | None = None
    n_threads: int | None = None  # None: one a physical core that this process may use
    n_batch: int = 2048  # most tokens of a prompt between two looks at what else is to be done
    n_ubatch: int | None = None  # most tokens computed at once; None: 512, or what suits offloaded experts
    n_outputs: int | None = None  # most tokens of a batch whose logits can be had; None: one of each sequence
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    flash_attention: bool | None = None  # None: see native_model.py
    n_gpu_layers: int | None = None  # None: all, if there is a GPU
    repack: bool = True  # let llama.cpp rearrange weights for the CPU's matrix instructions
    rpc: tuple[str, ...] = ()  # "host:port" of RPC servers whose devices are used too; see engine_process.py
    devices: tuple[str, ...] | None = None  # names of those to use; (): none; None: llama.cpp's choice
    split: tuple[float, ...] | None = None  # of layers, in proportion, a number a device; None: by free memory
    trace_file: str | None = None  # where the experts of every token are written, see telemetry/routing_trace.py
    offload: OffloadOptions = field(default_factory=OffloadOptions)  # of the experts of a Mixture-of-Experts model
    prefix_cache: PrefixCacheOptions | None = None  # where computed prompts are kept; None: in memory only
    step_times: StepTimesOptions | None = None  # where what steps take is kept; None: nowhere

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n_ctx", 1, 1 << 24),
            ("n_parallel", 1, MAX_PARALLEL),
            ("n_cells", 1, 1 << 28),
            ("n_threads", 1, 512),
            ("n_batch", 1, 1 << 20),
            ("n_ubatch", 1, 1 << 20),
            ("n_outputs", 1, 1 << 20),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidRequest(f"{name} must lie between {low} and {high}, not {value}")
        if self.n_ctx is not None and self.n_cells is not None and self.n_cells < self.n_ctx:
            raise InvalidRequest(f"n_cells ({self.n_cells}) must not be smaller than n_ctx ({self.n_ctx})")
        check_endpoints(self.rpc)
        self._check_devices()

    def _check_devices(self) -> None:
        names, split = self.devices, self.split
        if names is not None and len({name.lower() for name in names}) < len(names):
            raise InvalidRequest("a device is named twice")
        if split is not None and not (all(0 <= part <= MAX_SPLIT for part in split) and sum(split) > 0):
            raise InvalidRequest("the numbers of a split must not be negative, nor all zero", "as in --split 3,1")
        if names is not None and split is not None and len(split) != len(names):
            raise InvalidRequest(
                f"a split into {len(split)} parts for {len(names)} devices", "give each device a number"
            )
