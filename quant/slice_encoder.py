"""Do one slice of a conversion plan: read its rows as f32, encode them, write them at their final place.

Called from several threads; each keeps one buffer, so a worker's memory is one slice as f32 and once more encoded.
"""

from __future__ import annotations

import threading
import zlib

import numpy as np
from numpy.typing import NDArray

from quant.codecs.native import BadRowsError
from quant.codecs.row_encoder import RowEncoder
from quant.conversion_plan import ConversionPlan
from quant.durable_files import DurableFiles
from quant.errors import BadWeights
from quant.page_cache import SourceCache
from quant.slice_workers import Finished
from quant.tensor_read import TensorReader
from quant.work_slices import WorkSlice


class SliceEncoder:
    """Encodes slices of `plan` into the file `fd`.

    Args:
        plan: what to do.
        fd: the output, of full length.
        encoder: makes the bytes.
        files: how to write.
        reader: open for as long as slices are done.
        cache: of the plan's source files; None: the kernel does not cache them.
        n_ahead: how many slices further on the kernel is asked to read meanwhile.
    """

    def __init__(
        self,
        plan: ConversionPlan,
        fd: int,
        encoder: RowEncoder,
        *,
        files: DurableFiles,
        reader: TensorReader,
        cache: SourceCache | None = None,
        n_ahead: int = 0,
    ) -> None:
        self._plan = plan
        self._fd = fd
        self._encoder = encoder
        self._files = files
        self._reader = reader
        self._cache = cache
        self._n_ahead = n_ahead
        self._buffers = threading.local()
        self._buffer_weights = max(work.n_weights for work in plan.slices)

    def __call__(self, number: int) -> Finished:
        """Do slice `number`.

        Raises:
            BadWeights: NaN, infinity, or a weight too large for the type.
            FileFormatError: the source ends too early or cannot be read.
            OSError: the output cannot be written.
        """
        work = self._plan.slices[number]
        rows = self._reader.read_rows_f32(work.source.info, work.source.first_row, work.source.n_rows, self._buffer())
        if self._cache is not None:
            self._advise(number, work, self._cache)
        encoded = self._encode(work, rows).data.cast("B")
        self._files.write_at(self._fd, encoded, work.offset_bytes)
        return Finished(number, zlib.crc32(encoded), work.n_bytes, work.n_weights)

    def _buffer(self) -> NDArray[np.float32]:
        if not hasattr(self._buffers, "rows"):
            self._buffers.rows = np.empty(self._buffer_weights, np.float32)
        rows: NDArray[np.float32] = self._buffers.rows
        return rows

    def _encode(self, work: WorkSlice, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        place = self._plan.layout.placed[work.tensor]
        importance = None if self._plan.imatrix is None else self._plan.imatrix.entries.get(place.name)
        try:
            return self._encoder.encode(
                place.type, rows, None if importance is None else importance.mean_squares(work.matrix)
            )
        except BadRowsError:
            raise self._bad_weights(work, rows) from None

    def _bad_weights(self, work: WorkSlice, rows: NDArray[np.float32]) -> BadWeights:
        magnitudes = np.where(np.isfinite(rows), np.abs(rows), np.inf)
        row, column = np.unravel_index(int(magnitudes.argmax()), rows.shape)
        place, info = self._plan.layout.placed[work.tensor], work.source.info
        where = f"row {work.source.first_row + int(row)}, column {column}"
        is_finite = bool(np.isfinite(rows[row, column]))
        return BadWeights(
            f"{info.path.name}: tensor {info.name} holds {rows[row, column]} at {where}, "
            f"which {place.name} cannot store as {place.type.name}",
            "--type bf16 and f32 have the range" if is_finite else "the checkpoint is damaged: download it again",
        )

    def _advise(self, number: int, work: WorkSlice, cache: SourceCache) -> None:
        """What was read will not be needed again; what comes next is."""
        source = work.source
        for done in source.info.needed_until(source.first_row, source.n_rows):
            cache.was_read(done.path, done.offset_bytes, done.n_bytes)
        if number + self._n_ahead < len(self._plan.slices):
            coming = self._plan.slices[number + self._n_ahead].source
            for needed in coming.info.needed_from(coming.first_row, coming.n_rows):
                cache.will_read(needed.path, needed.offset_bytes, needed.n_bytes)
