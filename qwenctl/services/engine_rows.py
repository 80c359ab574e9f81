"""Rows of numbers on their way from the engine's process to its parent: base64 of little-endian float32 in JSON."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenctl.services.engine_messages import MessageError

_FORMAT = np.dtype("<f4")


def encode_rows(rows: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return `rows`, f32 (n, m), as values of JSON."""
    return {"n_columns": rows.shape[1], "data": base64.b64encode(rows.astype(_FORMAT).tobytes()).decode("ascii")}


def decode_rows(value: Any) -> npt.NDArray[np.float32]:
    """Return the rows that `encode_rows` was given.

    Raises:
        MessageError: `value` is not what it makes.
    """
    try:
        numbers = np.frombuffer(base64.b64decode(value["data"], validate=True), _FORMAT)
        return numbers.reshape(-1, value["n_columns"]).astype(np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise MessageError(f"rows that are none: {error}") from error
