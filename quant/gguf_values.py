"""Typed access to the metadata of a GGUF file: a value of the wrong type is an error that names the key.

llama.cpp reads each key as exactly one type, and only arrays as one of two or three, so there is no converting here.
Knows nothing of what the keys mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quant.errors import GgufError
from quant.gguf_format import GgufValueType
from quant.gguf_read import GgufFile
from quant.shown import shown

_PER_LAYER_TYPES = {GgufValueType.UINT32, GgufValueType.INT32, GgufValueType.BOOL}


@dataclass(frozen=True, slots=True)
class GgufValues:
    """The metadata of one file, by type. Every method raises GgufError where the value is not what it asks for."""

    gguf: GgufFile

    def refuse(self, detail: str, hint: str | None = None) -> NoReturn:
        """Raise the error that names the file."""
        raise GgufError(self.gguf.paths[0], detail, hint)

    def has(self, key: str) -> bool:
        """Tell whether the key is there."""
        return key in self.gguf.metadata

    def text(self, key: str, default: str | None = None) -> str:
        """Return a STRING; without a default the key must be there."""
        if not self.has(key) and default is not None:
            return default
        value = self._of_type(key, GgufValueType.STRING)
        if not isinstance(value, str):
            self._refuse_type(key, "one STRING")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """Return a UINT32; without a default the key must be there."""
        if not self.has(key) and default is not None:
            return default
        value = self._of_type(key, GgufValueType.UINT32)
        if not isinstance(value, int):
            self._refuse_type(key, "one UINT32")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a finite FLOAT32."""
        if not self.has(key):
            return default
        value = self._of_type(key, GgufValueType.FLOAT32)
        if not isinstance(value, float):
            self._refuse_type(key, "one FLOAT32")
        if not math.isfinite(value):
            self.refuse(f"{key} is {value}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a BOOL."""
        if not self.has(key):
            return default
        value = self._of_type(key, GgufValueType.BOOL)
        if not isinstance(value, bool):
            self._refuse_type(key, "one BOOL")
        return value

    def counts_per_layer(self, key: str, n_layers: int, default: int) -> list[int]:
        """Return one count for each layer, from an array or from a single UINT32 that holds for all."""
        value = self.gguf.metadata.get(key)
        if not isinstance(value, np.ndarray):
            return [self.count(key, default)] * n_layers
        if self.gguf.value_types[key] not in _PER_LAYER_TYPES:
            self._refuse_type(key, "an array of UINT32")
        if value.shape != (n_layers,):
            self.refuse(f"{key} has {value.size} elements for {n_layers} layers")
        return [int(element) for element in value]

    def strings(self, key: str) -> list[str]:
        """Return an array of STRING; the key must be there."""
        value = self._of_type(key, GgufValueType.STRING)
        if not isinstance(value, list):
            self._refuse_type(key, "an array of STRING")
        return value

    def array(self, key: str, types: set[GgufValueType]) -> NDArray[np.generic] | None:
        """Return an array whose elements are of one of `types`, or None where the key is not there."""
        if not self.has(key):
            return None
        value = self.gguf.metadata[key]
        if not isinstance(value, np.ndarray) or self.gguf.value_types[key] not in types:
            self._refuse_type(key, "an array of " + " or ".join(sorted(value_type.name for value_type in types)))
        return value

    def _of_type(self, key: str, value_type: GgufValueType) -> object:
        if not self.has(key):
            self.refuse(f"the key {key} is missing")
        if self.gguf.value_types[key] is not value_type:
            self._refuse_type(key, value_type.name)
        return self.gguf.metadata[key]

    def _refuse_type(self, key: str, expected: str) -> NoReturn:
        value, found = self.gguf.metadata[key], self.gguf.value_types[key].name
        what = f"an array of {found}" if isinstance(value, (list, np.ndarray)) else f"the {found} {shown(value)}"
        self.refuse(f"{key} must be {expected}, not {what}")
