"""Where a checkpoint comes from and what it is called: for `general.*` of the GGUF file.

Knows the layout of the Hugging Face cache and how models are named there; nothing of tensors' contents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quant.hf_config import HfConfig
from quant.model_card import read_model_card
from quant.tensor_names import TargetTensor

_HUB = "https://huggingface.co/"
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIZE = re.compile(r"(?:\d+x)?(\d+(?:\.\d+)?)([KMBT])", re.IGNORECASE)
_ACTIVE_SIZE = re.compile(r"A\d+(?:\.\d+)?[KMBT]", re.IGNORECASE)
_FACTORS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model that this one was made from."""

    name: str
    organization: str | None = None
    repo_url: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Name and origin of a checkpoint."""

    name: str
    size_label: str
    organization: str | None = None
    repo_url: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_models: tuple[BaseModel, ...] = ()
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


def describe_source(
    folder: Path, config: HfConfig, targets: Iterable[TargetTensor], repo_id: str | None = None
) -> ModelSource:
    """Return what README.md, config.json and the folder's place say of the checkpoint.

    Args:
        folder: the checkpoint.
        config: its configuration.
        targets: its tensors, to be counted.
        repo_id: "organisation/name" on the hub where the caller knows it.
    """
    card = read_model_card(folder)

    def first(*keys: str) -> str | None:
        return next((card[key][0] for key in keys if key in card), None)

    repo_id = repo_id or _repo_id(folder, config)
    label = repo_id.rsplit("/", 1)[1] if repo_id else folder.resolve().name
    return ModelSource(
        name=first("model_name", "name") or _title(label),
        size_label=_size_label(label, config, targets),
        organization=first("organization") or (_title(repo_id.split("/")[0]) if repo_id else None),
        repo_url=first("repo_url") or (_HUB + repo_id if repo_id else None),
        license=",".join(card["license"]) if "license" in card else None,
        license_name=first("license_name"),
        license_link=first("license_link"),
        base_models=tuple(_base_model(text) for text in card.get("base_model", ())),
        tags=card.get("tags", ()) + card.get("pipeline_tag", ()),
        languages=card.get("language", card.get("languages", ())),
    )


def _repo_id(folder: Path, config: HfConfig) -> str | None:
    """Return the repository from the hub's cache layout models--ORG--NAME/snapshots/REVISION, or from config.json."""
    parts = folder.resolve().parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        found = parts[-3].removeprefix("models--").replace("--", "/", 1)
    else:
        found = config.name_or_path or ""
    return found if _REPO_ID.fullmatch(found) and not found.startswith(".") else None


def _title(label: str) -> str:
    """Return a label as a name: my-model-7b → My Model 7b; words with capitals or digits in front stay."""
    words = label.replace("-", " ").split()
    return (
        " ".join(word.title() if word.islower() and not re.match(r"v?\d", word) else word for word in words) or "model"
    )


def _base_model(text: str) -> BaseModel:
    repo_id = text.removeprefix(_HUB)
    if not _REPO_ID.fullmatch(repo_id):
        return BaseModel(_title(text.rsplit("/", 1)[-1]), repo_url=text if text.startswith("https://") else None)
    organization, name = repo_id.split("/")
    return BaseModel(_title(name), _title(organization), _HUB + repo_id)


def _size_label(label: str, config: HfConfig, targets: Iterable[TargetTensor]) -> str:
    """Return the size as the name tells it (30B-A3B) where that is about true, otherwise counted (128x1.9B)."""
    counts = [("_exps." in target.name, prod(target.shape)) for target in targets]
    n_weights = sum(count for _, count in counts)
    words = label.split("-")[1:]
    for match in filter(None, map(_SIZE.fullmatch, words)):
        told = float(match.group(1)) * _FACTORS[match.group(2).upper()]
        if 0.5 < told / n_weights < 2:
            active = [word.upper() for word in words if _ACTIVE_SIZE.fullmatch(word)]
            return "-".join([match.group().upper(), *active[:1]])
    if not config.n_experts:
        return _rounded(n_weights)
    one_of_each = sum(count // config.n_experts if is_expert else count for is_expert, count in counts)
    return f"{config.n_experts}x{_rounded(one_of_each)}"


def _rounded(n_weights: int) -> str:
    """Return a count with two digits at least: 1.9B, 31B, 752M (the notation of GGUF's naming convention)."""
    letter, factor = next(((key, f) for key, f in reversed(_FACTORS.items()) if n_weights > f), ("K", 1e3))
    scaled = n_weights / factor
    return f"{scaled:.{max(0, 2 - len(str(round(scaled)).lstrip('0')))}f}{letter}"
