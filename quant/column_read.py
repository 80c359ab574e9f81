"""Read some columns of stored matrices, several threads at once, without reading the whole matrix for each.

A matrix lies row after row, so columns are a few bytes out of every row:

    row 0   | ····|panel|····|        a panel: as many columns as make 8 MiB, read once for all threads
    row 1   | ····|panel|····|        and kept until others take its place; a smaller matrix is one panel
    …

The file is read front to back in blocks of whole rows, of which the panel's columns are kept. A matrix of 17 million
4-bit weights is read once; one of 240 millions (an MLP of a dense 72B model) is gone through fifteen times, from the
page cache but for the first: far less than decoding takes. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.tensor_info import TensorInfo

PANEL_BYTES = 8 << 20
KEPT_BYTES = 32 << 20
"""Of all panels together, whatever the number of threads; a panel in use lives on until its reader is done."""

_BLOCK_BYTES = 1 << 20
_ELEMENTS = {"I32": "<i4", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # numpy has no bf16: its bits

ReadBytes = Callable[[TensorInfo, int, NDArray[np.uint8]], None]


@dataclass(slots=True)
class _Panel:
    n_bytes: int
    lock: Lock = field(default_factory=Lock)  # held while the panel is read, by the first thread that wants it
    columns: NDArray[Any] | None = None


class ColumnReader:
    """Keeps panels of matrices.

    Args:
        read_bytes: fills an array with the stored bytes of a tensor from a byte on.
        panel_bytes: size of a panel; single rows' elements and matrices' ends make it smaller or larger.
        kept_bytes: how much of them is kept.
    """

    def __init__(self, read_bytes: ReadBytes, panel_bytes: int = PANEL_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
        self._read_bytes = read_bytes
        self._panel_bytes = panel_bytes
        self._kept_bytes = kept_bytes
        self._lock = Lock()
        self._panels: OrderedDict[tuple[TensorInfo, int], _Panel] = OrderedDict()  # longest unused first
        self._held_bytes = 0  # by the panels

    def read(self, info: TensorInfo, first_column: int, n_columns: int) -> NDArray[Any]:
        """Return columns (n_rows, n_columns) of a matrix of I32, F32, F16 or BF16, the last as uint16.

        The result may be a view of what is kept: it must not be written to.

        Raises:
            ValueError: another type, no matrix, no columns, or some that it does not have.
            FileFormatError: as `read_bytes`.
        """
        if info.dtype not in _ELEMENTS or len(info.shape) != 2:
            raise ValueError(f"columns of {info.name}, {info.dtype} {info.shape}, cannot be read")
        if not 0 <= first_column < first_column + n_columns <= info.n_columns:
            raise ValueError(
                f"{info.name} has {info.n_columns} columns, not {first_column} to {first_column + n_columns}"
            )
        width = self._panel_columns(info)
        after = first_column + n_columns
        found = [
            self._panel(info, number, width)[:, max(0, first_column - number * width) : after - number * width]
            for number in range(first_column // width, -(-after // width))
        ]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def _panel_columns(self, info: TensorInfo) -> int:
        column_bytes = max(1, info.n_bytes // info.n_columns)
        n_panels = -(-info.n_columns // max(1, self._panel_bytes // column_bytes))
        return -(-info.n_columns // n_panels)  # nearly equal panels

    def _panel(self, info: TensorInfo, number: int, width: int) -> NDArray[Any]:
        first = number * width
        n_columns = min(width, info.n_columns - first)
        panel = self._entry((info, number), n_columns * (info.n_bytes // info.n_columns))
        with panel.lock:
            if panel.columns is None:
                panel.columns = self._read_panel(info, first, n_columns)
            return panel.columns

    def _entry(self, key: tuple[TensorInfo, int], n_bytes: int) -> _Panel:
        """Return the panel's entry, made if need be, and drop those that were not used for longest."""
        with self._lock:
            if key not in self._panels:
                self._panels[key] = _Panel(n_bytes)
                self._held_bytes += n_bytes
            self._panels.move_to_end(key)
            while len(self._panels) > 1 and self._held_bytes > self._kept_bytes:
                self._held_bytes -= self._panels.popitem(last=False)[1].n_bytes
            return self._panels[key]

    def _read_panel(self, info: TensorInfo, first_column: int, n_columns: int) -> NDArray[Any]:
        n_rows, row_bytes = info.n_rows, info.n_bytes // info.n_rows
        panel = np.empty((n_rows, n_columns), _ELEMENTS[info.dtype])
        if n_columns == info.n_columns:
            self._read_bytes(info, 0, panel.view(np.uint8).reshape(-1))
            return panel
        n_together = max(1, _BLOCK_BYTES // row_bytes)
        block = np.empty((min(n_together, n_rows), info.n_columns), panel.dtype)
        for first_row in range(0, n_rows, n_together):
            rows = block[: min(n_together, n_rows - first_row)]
            self._read_bytes(info, first_row * row_bytes, rows.view(np.uint8).reshape(-1))
            panel[first_row : first_row + len(rows)] = rows[:, first_column : first_column + n_columns]
        return panel
