"""Do one unit of an export plan: read, scale, quantize, and write it at its final place.

Called from several threads. A unit that packs a matrix holds its packed bytes, half a byte a weight, and some of its
rows as f32; its unscaled weights are never in memory at once.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quant.codecs.int4_search import Int4Groups, search_groups
from quant.durable_files import DurableFiles
from quant.errors import BadWeights, WriteFailed
from quant.export_factors import FactorCache
from quant.export_format import WORD, PackedMatrix
from quant.export_inputs import InputWeights
from quant.export_plan import ExportPlan, ExportUnit, kept_type
from quant.export_rows import SourceRowReader, stored_bits
from quant.export_search import search_site
from quant.export_tensors import ExportTensor
from quant.gptq_rounding import round_compensated
from quant.page_cache import SourceCache
from quant.slice_workers import Finished
from quant.source_tensor import SourceTensor

F32 = NDArray[np.float32]

CHUNK_WEIGHTS = 1 << 20  # quantized together


class UnitEncoder:
    """Does units of `plan`.

    Args:
        plan: what to do.
        fds: the shards, of full length, then the scratch file.
        files: how to write.
        rows: reads what a unit is made of, each row once, for as long as units are done.
        samples: reads other rows that it depends on; None: the same reader.
        cache: of the plan's source files; None: the kernel does not cache them.
        n_ahead: how many units further on the kernel is asked to read meanwhile.
    """

    def __init__(
        self,
        plan: ExportPlan,
        fds: Sequence[int],
        *,
        files: DurableFiles,
        rows: SourceRowReader,
        samples: SourceRowReader | None = None,
        cache: SourceCache | None = None,
        n_ahead: int = 0,
    ) -> None:
        self._plan = plan
        self._fds = fds
        self._files = files
        self._rows = rows
        self._samples = samples or rows
        self._cache = cache
        self._n_ahead = n_ahead
        self._inputs = InputWeights(plan, self._samples)
        self._factors = FactorCache(plan.statistics, plan.kind.group_size)
        self._encode: Mapping[str, Callable[[ExportUnit], NDArray[np.uint8]]] = {
            "search": self._search,
            "keep": self._keep,
            "pack": self._pack,
        }
        self.zero_matrices: list[str] = []  # met so far

    def __call__(self, number: int) -> Finished:
        """Do unit `number`.

        Raises:
            BadWeights: NaN, infinity, or a weight too large for an f16 scale.
            FileFormatError: the source ends too early or cannot be read.
            OSError: the output cannot be written.
        """
        unit = self._plan.units[number]
        data = self._encode[unit.kind](unit).data
        self._files.write_at(self._fds[unit.file], data, unit.offset_bytes)
        if self._cache is not None:
            self._advise(number, unit, self._cache)
        return Finished(number, zlib.crc32(data), unit.n_bytes, unit.n_weights)

    def _search(self, unit: ExportUnit) -> NDArray[np.uint8]:
        choice = search_site(self._plan, self._plan.sites[unit.subject], self._samples, self._inputs)
        return choice.factors.astype("<f4").view(np.uint8)

    def _keep(self, unit: ExportUnit) -> NDArray[np.uint8]:
        tensor = self._plan.tensors[unit.subject]
        rows = self._rows.read(tensor, unit.first_row, unit.n_rows)
        columns, by_row = self._column_factors(unit.subject), self._row_factors(unit.subject)
        if len(tensor.shape) == 1 and by_row is not None:
            rows = rows / by_row
        else:
            rows = _scaled(rows, columns, by_row, unit.first_row)
        type_name = kept_type(tensor.source.info)
        stored = stored_bits(rows, type_name)
        if type_name == "F16" and not np.isfinite(stored).all():
            raise BadWeights(f"{tensor.source.info.path.name}: tensor {tensor.name} holds a weight beyond what F16 can")
        return stored.reshape(-1).view(np.uint8)

    def _pack(self, unit: ExportUnit) -> NDArray[np.uint8]:
        tensor = self._plan.tensors[unit.subject]
        matrix = PackedMatrix(self._plan.kind, tensor.n_rows, tensor.n_columns)
        rounding = self._rounding(unit.subject, tensor)
        is_zero = True
        for first, n_rows in packed_together(tensor):
            rows = self._rows.read(tensor, first, n_rows)
            is_zero = is_zero and not rows.any()
            try:
                matrix.fill(first, rounding(first, rows))
            except ValueError:
                raise BadWeights(
                    f"{tensor.source.info.path.name}: tensor {tensor.name} holds {rows.flat[np.abs(rows).argmax()]:g}, "
                    "for which no scale of type F16 is large enough"
                ) from None
        if is_zero:
            self.zero_matrices.append(tensor.name)
        return matrix.data

    def _rounding(self, subject: int, tensor: ExportTensor) -> Callable[[int, F32], Int4Groups]:
        """Return how rows of a matrix are quantized: from (number of the first, rows) to groups."""
        kind, factor = self._plan.kind, self._factors.factor_of(tensor)
        columns, by_row = self._column_factors(subject), self._row_factors(subject)
        if factor is None:
            importance = self._inputs.importance(subject)
            if columns is not None:
                importance = importance / (columns * columns)
                importance /= importance.mean()

        def rounded(first: int, rows: F32) -> Int4Groups:
            if factor is None:
                scaled = _scaled(rows, columns, by_row, first)
                return search_groups(scaled, importance, kind.group_size, symmetric=kind.is_symmetric)
            divided = _scaled(rows, None, by_row, first)
            return round_compensated(divided, factor, kind.group_size, factors=columns, symmetric=kind.is_symmetric)

        return rounded

    def _column_factors(self, subject: int) -> F32 | None:
        number = self._plan.folds[subject].columns
        return None if number is None else self._plan.sites[number].spread(self._site_factors(number))

    def _row_factors(self, subject: int) -> F32 | None:
        number = self._plan.folds[subject].rows
        return None if number is None else self._site_factors(number)

    def _site_factors(self, number: int) -> F32:
        unit = self._plan.units[number]  # searches come first, in the order of the sites
        data = os.pread(self._fds[unit.file], unit.n_bytes, unit.offset_bytes)
        if len(data) != unit.n_bytes:
            raise WriteFailed("the scratch file became shorter while it was used", "--restart starts over")
        return np.frombuffer(data, "<f4").astype(np.float32)

    def _advise(self, number: int, unit: ExportUnit, cache: SourceCache) -> None:
        """What was read will not be needed again; what comes next is."""
        if unit.kind == "search":
            return
        info, first_row, n_rows = self._source_of(unit)
        for done in info.needed_until(first_row, n_rows):
            cache.was_read(done.path, done.offset_bytes, done.n_bytes)
        if number + self._n_ahead < len(self._plan.units):
            info, first_row, n_rows = self._source_of(self._plan.units[number + self._n_ahead])
            for needed in info.needed_from(first_row, n_rows):
                cache.will_read(needed.path, needed.offset_bytes, needed.n_bytes)

    def _source_of(self, unit: ExportUnit) -> tuple[SourceTensor, int, int]:
        source = self._plan.tensors[unit.subject].source
        if unit.kind == "keep":
            return source.info, source.first_row + unit.first_row, unit.n_rows
        return source.info, source.first_row, source.n_rows


def packed_together(tensor: ExportTensor) -> Iterator[tuple[int, int]]:
    """Yield (first row, number of rows) of what of a matrix is read and quantized together, in order."""
    step = max(WORD, CHUNK_WEIGHTS // tensor.n_columns // 16 * 16)
    for first in range(0, tensor.n_rows, step):
        yield first, min(step, tensor.n_rows - first)


def _scaled(rows: F32, columns: F32 | None, by_row: F32 | None, first_row: int) -> F32:
    """Return rows of a matrix, of which `first_row` is the first, with the factors of columns and rows applied."""
    rows = rows if columns is None else rows * columns
    return rows if by_row is None else rows / by_row[first_row : first_row + len(rows), None]
