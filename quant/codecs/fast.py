"""The compiled encoders of quant/codecs/native_encoders: finding them, and one call to encode rows.

Sixteen rows (AVX-512), eight (AVX2) or four at a time, one a lane: everything but the packing of bits is the same
arithmetic on all lanes then, down to the scales of a super-block. Any C++ compiler makes them with the package, in
seconds, to a third of a megabyte. (numba made a third of the rate of the same loops, and brings 200 MB.) Optional:
without a compiler, and for other types, ggml's own encoders do the work (quant/codecs/row_encoder.py).

ggml searches the scales of a block by a weighting that favours large weights, and rounds them afterwards. Here the
search minimises what is measured, the squared error weighted by column importance alone; it goes on among scales as
they are stored; and the super-block's scales are fitted last. That makes the error 4 to 15 % smaller. The same rows
give the same bytes on one instruction set; between instruction sets last bits differ, so its name is part of a
conversion's identity.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.extension import load_extension
from quant.ggml_types import GGML_TYPES, GgmlType

FAST_TYPES: tuple[GgmlType, ...] = tuple(
    GGML_TYPES[name] for name in ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
)
"""Types that these encoders write."""

ISA_NAMES = ("baseline", "avx2", "avx512")

VERSION = 1
"""Changes whenever the bytes do: a conversion that an older version began is not resumed."""

_NAME = "_encoders"
_DONE, _UNFIT = 0, 2


class _Request(ctypes.Structure):
    """`struct encode_request` of encoder.h."""

    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("importance", ctypes.c_void_p),
        ("encoded", ctypes.c_void_p),
        ("n_rows", ctypes.c_int64),
        ("n_columns", ctypes.c_int64),
        ("type_id", ctypes.c_int32),
        ("best", ctypes.c_int32),
        ("limit", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True)
class FastEncoders:
    """The library, on one instruction set. Safe to share between threads: calls release Python's lock."""

    library: ctypes.CDLL
    isa: str  # one of ISA_NAMES

    def encode(
        self,
        ggml_type: GgmlType,
        rows: NDArray[np.float32],
        importance: NDArray[np.float32] | None,
        encoded: NDArray[np.uint8],
        *,
        best: bool,
        limit: float,
    ) -> bool:
        """Encode `rows` into `encoded`; False if a weight is not finite or beyond `limit`, with `encoded` undefined.

        Args:
            ggml_type: one of FAST_TYPES.
            rows: f32 (n_rows, n_columns), C-contiguous, n_columns a multiple of the type's block.
            importance: f32 (n_columns,), positive and 1 on average; None: all alike.
            encoded: uint8 (n_rows, row bytes), C-contiguous.
            best: search seven times as long for an error that is 1 to 3 % smaller.
            limit: largest magnitude of a weight.

        Raises:
            ValueError: a type of another kind.
        """
        request = _Request(
            rows.ctypes.data,
            None if importance is None else importance.ctypes.data,
            encoded.ctypes.data,
            *rows.shape,
            ggml_type.type_id,
            best,
            limit,
        )
        result = self.library.encoder_encode(ctypes.byref(request), ISA_NAMES.index(self.isa))
        if result not in {_DONE, _UNFIT}:
            raise ValueError(f"{ggml_type.name} is not among the fast encoders")
        return bool(result == _DONE)


def load_fast_encoders(isa: str | None = None) -> FastEncoders | None:
    """Return the compiled encoders for the best instruction set of this processor, or for `isa`; None: not compiled.

    Raises:
        ValueError: this processor does not have `isa`.
    """
    library = load_extension(Path(__file__).parent, _NAME, "encoder_isa", "encoder_encode")
    if library is None:
        return None
    library.encoder_isa.argtypes = ()
    library.encoder_encode.argtypes = (ctypes.POINTER(_Request), ctypes.c_int)
    best = int(library.encoder_isa())
    if isa is not None and ISA_NAMES.index(isa) > best:
        raise ValueError(f"this processor has no {isa}")
    return FastEncoders(library, isa or ISA_NAMES[best])
