"""All that is added up while a model reads, and how it is stored between two runs. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed
from qwenctl.services.activation_moments import ActivationMoments
from qwenctl.services.activation_sums import ActivationSums

Arrays = dict[str, npt.NDArray[np.floating]]


class ActivationTotals:
    """Sums of squares and second moments."""

    def __init__(self) -> None:
        self.sums, self.moments = ActivationSums(), ActivationMoments()

    def arrays(self) -> Arrays:
        """Return everything by the name of the input and what it is: "NAME.sums", .counts, .moments, .n_tokens."""
        sums, moments = self.sums, self.moments
        found: Arrays = {f"{name}.sums": array for name, array in sums.sums.items()}
        found |= {f"{name}.counts": array for name, array in sums.counts.items()}
        found |= {f"{name}.moments": array for name, array in moments.moments.items()}
        return found | {f"{name}.n_tokens": array for name, array in moments.counts.items()}

    def restore(self, arrays: Mapping[str, npt.NDArray[np.floating]]) -> None:
        """Go on from what `arrays` returned.

        Raises:
            KeyError: an array is missing, or one is of no kind that is known.
        """
        for name, array in arrays.items():
            base, _, kind = name.rpartition(".")
            if kind == "sums":
                self.sums.sums[base] = array.astype(np.float64)
                self.sums.counts[base] = arrays[f"{base}.counts"].astype(np.float64)
            elif kind == "moments":
                self.moments.moments[base] = array.astype(np.float32)
                self.moments.counts[base] = arrays[f"{base}.n_tokens"].astype(np.float64)
            elif kind not in ("counts", "n_tokens"):
                raise KeyError(name)

    def n_thin_experts(self, n_tokens: int) -> int:
        """Return how many experts of all layers have seen fewer tokens."""
        counts = (count for name, count in self.sums.counts.items() if name.endswith(".ffn_down_exps.weight"))
        return sum(int(np.count_nonzero(count < n_tokens)) for count in counts)

    def check_finite(self) -> None:
        """Raise if an activation was not finite.

        Raises:
            GenerationFailed: the message names the weight.
        """
        name = self.sums.first_not_finite() or self.moments.first_not_finite()
        if name is not None:
            raise GenerationFailed(
                f"what {name} is multiplied with is not finite: this model overflows", "try the model in another type"
            )
