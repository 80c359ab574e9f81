"""Factored second moments, kept for the matrices that share an input: q, k and v, gate and up, the experts of a layer.

Knows nothing of rounding: quant/gptq_rounding.py.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock

from quant.export_statistics import ActivationStatistics
from quant.export_tensors import ExportTensor
from quant.gptq_rounding import Factor, factorize

KEPT_BYTES = 192 << 20
"""Of all factors together, unless one alone is larger; a factor in use lives on until its user is done."""

_LARGE_COLUMNS = 4096  # above, one is factored at a time: it takes 0.4 GB of memory and more meanwhile


@dataclass(slots=True)
class _Entry:
    n_bytes: int
    lock: Lock = field(default_factory=Lock)  # held while it is factored, by the first thread that wants it
    is_known: bool = False
    factor: Factor | None = None


class FactorCache:
    """Factors of inputs, made when they are first asked for; safe from several threads.

    Args:
        statistics: where second moments are.
        group_size: of the quantization.
    """

    def __init__(self, statistics: ActivationStatistics, group_size: int) -> None:
        self._statistics = statistics
        self._group_size = group_size
        self._lock = Lock()
        self._large_lock = Lock()
        self._entries: OrderedDict[tuple[str, int], _Entry] = OrderedDict()  # longest unused first

    def factor_of(self, tensor: ExportTensor) -> Factor | None:
        """Return the factor of a tensor's input; None: nothing is known of how its columns go together.

        Raises:
            SafetensorsError: the file of second moments cannot be read, or holds numbers that are not finite.
        """
        moments = self._statistics.moments_for(tensor)
        if moments is None:
            return None
        name = moments.stored_name(tensor.gguf_name)
        matrix = tensor.matrix if moments.n_matrices(name) > 1 else 0
        entry = self._entry((name, matrix), 4 * tensor.n_columns**2)
        with entry.lock:
            if not entry.is_known:
                with self._large_lock if tensor.n_columns > _LARGE_COLUMNS else nullcontext():
                    count = moments.count(name, matrix)
                    entry.factor = factorize(moments.moments(name, matrix), count, self._group_size)
                entry.is_known = True
            return entry.factor

    def _entry(self, key: tuple[str, int], n_bytes: int) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(n_bytes))
            self._entries.move_to_end(key)
            while len(self._entries) > 1 and sum(kept.n_bytes for kept in self._entries.values()) > KEPT_BYTES:
                self._entries.popitem(last=False)
            return entry
