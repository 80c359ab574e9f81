"""The encoder of a conversion: ours where it can, ggml's where not, with one set of checks before either.

    quality    fast     our encoders, quick search: 20 times ggml's rate and more, at a smaller error
               best     our encoders, long search: another percent or three less error, a third of the rate
               exact    ggml's encoders, for files that are llama.cpp's byte for byte

Knows nothing of files and plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codecs import native
from quant.codecs.fast import FAST_TYPES, VERSION, FastEncoders, load_fast_encoders
from quant.ggml_types import GgmlType
from quant.libggml import LibGgml

QUALITIES = ("fast", "best", "exact")

_LEAST_IMPORTANCE = 1e-4  # of the average: a column that was never used still gets its weights back roughly


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """Encodes rows of any type that ggml can encode. Safe to share between threads.

    Args:
        lib: ggml's encoders.
        fast: ours, or None.
        best: whether ours search long.
    """

    lib: LibGgml
    fast: FastEncoders | None
    best: bool = False

    @property
    def identity(self) -> str:
        """What the bytes depend on besides rows and importance."""
        library = f"ggml {self.lib.version} ({self.lib.commit})"
        if self.fast is None:
            return library
        return f"{library}, encoders {VERSION} {self.fast.isa} {'best' if self.best else 'fast'}"

    def encode(
        self,
        ggml_type: GgmlType,
        rows: NDArray[np.float32],
        imatrix: NDArray[np.float32] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return `rows` in the layout of `ggml_type`: uint8 (n_rows, row_bytes).

        Args:
            ggml_type: one of native.ENCODABLE_TYPES.
            rows: f32 (n_rows, n_columns), C-contiguous.
            imatrix: f32 (n_columns,), mean squares of the activations of each column.
            out: contiguous uint8 (n,) whose front is filled and returned as a view; None: a new array.

        Raises:
            BadRowsError: a weight that is NaN, infinite or too large.
            ValueError: any other argument that does not fit.
        """
        if self.fast is None or ggml_type not in FAST_TYPES:
            return native.encode_rows(self.lib, ggml_type, rows, imatrix, out)
        encoded = native.destination_of(ggml_type, rows, out)
        importance = None if imatrix is None else importance_of(imatrix, rows.shape[1])
        limit = native.largest_weight(ggml_type)
        if not self.fast.encode(ggml_type, rows, importance, encoded, best=self.best, limit=limit):
            native.check_weights(ggml_type, rows)
            raise AssertionError("the encoder refused weights that can be stored")
        return encoded


def importance_of(imatrix: NDArray[np.float32], n_columns: int) -> NDArray[np.float32] | None:
    """Return `imatrix` scaled to an average of 1 and with no column at nothing, or None if all are nothing.

    Raises:
        ValueError: of another length, or with NaN, infinity or negative numbers.
    """
    native.check_imatrix(imatrix, n_columns)
    mean = float(imatrix.mean(dtype=np.float64))
    if mean <= 0:
        return None
    importance: NDArray[np.float32] = np.maximum(imatrix / np.float32(mean), np.float32(_LEAST_IMPORTANCE))
    return importance


def make_row_encoder(lib: LibGgml, quality: str = "fast") -> RowEncoder:
    """Return the encoder for one of QUALITIES; ggml's, too, where ours were not compiled."""
    if quality not in QUALITIES:
        raise ValueError(f"no quality {quality!r}")
    return RowEncoder(lib, None if quality == "exact" else load_fast_encoders(), quality == "best")
