"""What whoever gathers statistics of activations is told by the steps of offloaded experts.

llama.cpp's evaluation callback cannot see this: between gate and down nothing of an offloaded layer is in llama.cpp's
tensors. So the steps tell it themselves, batch by batch, on the thread that computes. Arrays are views of memory that
is written again after the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class ExpertWatch(Protocol):
    """Gets the inputs of a layer's expert weights."""

    def saw_input(self, layer: int, x: npt.NDArray[np.float32], routed: npt.NDArray[np.int32]) -> None:
        """Take what gate and up of block `layer` multiply: f32 (n_tokens, n_embd) and i32 (n_tokens, n_used)."""

    def saw_hidden(
        self, layer: int, experts: Sequence[int], counts: Sequence[int], rows: npt.NDArray[np.float32]
    ) -> None:
        """Take what down of block `layer` multiplies for some pairs of (token, expert).

        Args:
            layer: of the model.
            experts: some of those that were routed to; each may come again in a later call of the same batch.
            counts: pairs of each.
            rows: f32 (pairs, n_ff), those of the first expert first.
        """
