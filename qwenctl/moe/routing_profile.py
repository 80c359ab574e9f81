"""What is remembered of a model's routing from run to run: a small file in the cache folder, for a warm start only.

    uses            how often each expert of each layer was wanted: which experts to load first
    hits_by_rank    each layer's hit curve: which layers to give more slots at once (hit_curves.py)

Real routing follows the text, so a profile decides nothing once a run has data of its own. A file that is damaged, too
large or of another shape is as good as none. Knows nothing of where the cache folder is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.durable_files import DurableFiles
from qwenctl.moe.hit_curves import HitCurve

_VERSION = 1
_MOST_FILE_BYTES = 16 << 20
_MOST_USES = 1 << 40
_MOST_OLD_SAMPLES = 4096.0
_TRUSTED_SAMPLES = 64.0


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One layer.

    Attributes:
        layer: block number.
        uses: of each expert, in the sampled steps.
        hits_by_rank: hits a step at each rank, as many as experts.
        n_samples: the steps behind both.

    Raises:
        ValueError: lengths differ, or a number is negative, not finite or absurdly large.
    """

    layer: int
    uses: tuple[int, ...]
    hits_by_rank: tuple[float, ...]
    n_samples: float

    def __post_init__(self) -> None:
        numbers = (self.layer, self.n_samples, *self.uses, *self.hits_by_rank)
        if len(self.uses) != len(self.hits_by_rank) or not self.uses:
            raise ValueError(f"layer {self.layer}: {len(self.uses)} uses, {len(self.hits_by_rank)} ranks")
        if not all(0 <= number <= _MOST_USES for number in numbers):  # false for NaN as well
            raise ValueError(f"layer {self.layer}: a number out of range")

    def order_by_heat(self) -> tuple[int, ...]:
        """Return all experts, the most used first."""
        return tuple(sorted(range(len(self.uses)), key=lambda expert: (-self.uses[expert], expert)))

    def curve(self) -> HitCurve:
        """Return the hit curve to start from; a little of a run's own data outweighs it."""
        n_samples = min(self.n_samples, _TRUSTED_SAMPLES)
        return HitCurve(len(self.uses), hits_by_rank=self.hits_by_rank, n_samples=n_samples)

    def followed_by(self, curve: HitCurve) -> LayerProfile:
        """Return the profile with what a run measured since; the past counts as at most 4,096 samples.

        Args:
            curve: of the run; started from `curve()` or from nothing.
        """
        kept = min(1.0, _MOST_OLD_SAMPLES / self.n_samples) if self.n_samples else 0.0
        uses = tuple(int(old * kept) + new for old, new in zip(self.uses, curve.uses, strict=True))
        n_old, n_new = self.n_samples * kept, curve.n_samples
        share = n_new / (n_old + n_new) if n_old + n_new else 0.0
        pairs = zip(self.hits_by_rank, curve.hits_by_rank(), strict=True)
        hits = tuple(old + share * (new - old) for old, new in pairs)
        return LayerProfile(self.layer, uses, hits, n_old + n_new)


@dataclass(frozen=True, slots=True)
class RoutingProfile:
    """All MoE layers of a model, in the order of their block numbers."""

    layers: tuple[LayerProfile, ...]

    def order_by_heat(self, layer: int) -> tuple[int, ...]:
        """Return all experts of block `layer`, the most used first.

        Raises:
            KeyError: the profile has no such layer.
        """
        for profile in self.layers:
            if profile.layer == layer:
                return profile.order_by_heat()
        raise KeyError(layer)


def empty_profile(layers: Sequence[int], n_experts: int) -> RoutingProfile:
    """Return the profile of a model that never ran."""
    return RoutingProfile(tuple(LayerProfile(layer, (0,) * n_experts, (0.0,) * n_experts, 0.0) for layer in layers))


def read_profile(path: Path, layers: Sequence[int], n_experts: int) -> tuple[RoutingProfile, str | None]:
    """Return what is remembered of a model with these MoE layers, and why nothing is if the file is of no use.

    A missing file is the normal case: an empty profile and no reason.
    """
    empty = empty_profile(layers, n_experts)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
        if len(data) > _MOST_FILE_BYTES:
            return empty, f"{path}: larger than any routing profile"
        profile = _parsed(json.loads(data))
    except FileNotFoundError:
        return empty, None
    except OSError as error:
        return empty, f"{path}: {error.strerror or error}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        return empty, f"{path}: not a routing profile: {error}"
    shape = [(layer.layer, len(layer.uses)) for layer in profile.layers]
    if shape != [(layer, n_experts) for layer in layers]:
        return empty, f"{path}: of a model of another shape"
    return profile, None


def write_profile(path: Path, profile: RoutingProfile, files: DurableFiles | None = None) -> None:
    """Put `profile` under `path`: all of it, or what was there before.

    Raises:
        OSError: the disk is full or refuses; no temporary file is left behind.
    """
    layers = [
        {
            "layer": layer.layer,
            "uses": layer.uses,
            "hits_by_rank": [round(hits, 6) for hits in layer.hits_by_rank],
            "n_samples": round(layer.n_samples, 1),
        }
        for layer in profile.layers
    ]
    data = json.dumps({"version": _VERSION, "layers": layers}, separators=(",", ":")).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    (files or DurableFiles()).replace_whole(path, [(0, memoryview(data))], len(data))


def _parsed(stored: Any) -> RoutingProfile:
    if stored["version"] != _VERSION:
        raise ValueError(f"version {stored['version']!r}")
    return RoutingProfile(tuple(_parsed_layer(layer) for layer in stored["layers"]))


def _parsed_layer(stored: Any) -> LayerProfile:
    uses = tuple(stored["uses"])
    if not all(type(number) is int for number in (stored["layer"], *uses)):
        raise ValueError("a count that is not an integer")
    hits = tuple(float(number) for number in stored["hits_by_rank"])
    n_samples = float(stored["n_samples"])
    if not math.isfinite(n_samples):
        raise ValueError("samples that are not finite")
    return LayerProfile(stored["layer"], uses, hits, n_samples)
