"""Means with their standard errors. Pure functions on arrays; the formulas are those of llama-perplexity.

mean      f = sum / n,  error = sqrt((sum of squares / n - f²) / (n - 1))
exp(mean) error = exp(f) × error of f, by the first derivative; a root likewise
share     of marks, the mean of zeros and ones: error = sqrt(f (1 - f) / (n - 1)), the same formula
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LARGEST_EXPONENT = 709.0  # of an f64


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error, 0 where there are too few numbers to know it."""

    value: float
    error: float

    def exp(self) -> Estimate:
        """Return e to the power of this."""
        value = math.exp(self.value) if self.value < _LARGEST_EXPONENT else math.inf
        return Estimate(value, value * self.error)

    def root(self) -> Estimate:
        """Return the square root of this."""
        value = math.sqrt(self.value)
        return Estimate(value, 0.5 * self.error / value if value else 0.0)


def mean_of(values: npt.NDArray[np.floating] | npt.NDArray[np.bool_]) -> Estimate:
    """Return the mean of `values` (n,), numbers or marks, computed in f64.

    Raises:
        ValueError: there are none.
    """
    if not len(values):
        raise ValueError("no values to take the mean of")
    exact = values.astype(np.float64)
    error = float(exact.std()) / math.sqrt(len(exact) - 1) if len(exact) > 1 else 0.0
    return Estimate(float(exact.mean()), error)
