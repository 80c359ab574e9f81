"""The table of short names: `qwen3:30b-a3b` and the repositories that it stands for. Pure data, looked up by name.

Repositories of the organisation Qwen are its own; where it publishes no GGUF, the most used conversion by others
stands there. What our converter cannot read (Qwen3-Next, Qwen3.5) is only to be had as GGUF.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_OWN = "Qwen/"


@dataclass(frozen=True, slots=True)
class ShortName:
    """A model, and where it is: `checkpoint` holds safetensors, `gguf` ready-made files."""

    name: str
    checkpoint: str
    gguf: str
    is_convertible: bool = True

    @property
    def prefers_gguf(self) -> bool:
        """Whether the ready-made file is what the name means: it is the makers' own, or there is no other way."""
        return self.gguf.startswith(_OWN) or not self.is_convertible


def _sizes(text: str) -> Iterator[tuple[str, str]]:
    """Yield (size as typed, size as the repositories spell it)."""
    return ((size.lower(), size) for size in text.split())


def _qwen3() -> Iterator[ShortName]:
    for size, spelled in _sizes("0.6B 1.7B 4B 8B 14B 32B 30B-A3B 235B-A22B"):
        yield ShortName(f"qwen3:{size}", f"Qwen/Qwen3-{spelled}", f"Qwen/Qwen3-{spelled}-GGUF")


def _qwen3_2507() -> Iterator[ShortName]:
    for size, spelled in _sizes("4B 30B-A3B 235B-A22B"):
        for kind in ("Instruct", "Thinking"):
            label = f"Qwen3-{spelled}-{kind}-2507"
            yield ShortName(f"qwen3:{size}-{kind.lower()}-2507", f"Qwen/{label}", f"unsloth/{label}-GGUF")


def _qwen3_coder() -> Iterator[ShortName]:
    for size, spelled in _sizes("30B-A3B 480B-A35B"):
        label = f"Qwen3-Coder-{spelled}-Instruct"
        yield ShortName(f"qwen3-coder:{size}", f"Qwen/{label}", f"unsloth/{label}-GGUF")


def _qwen3_next() -> Iterator[ShortName]:
    for suffix, kind in (("", "Instruct"), ("-instruct", "Instruct"), ("-thinking", "Thinking")):
        label = f"Qwen/Qwen3-Next-80B-A3B-{kind}"
        yield ShortName(f"qwen3-next:80b-a3b{suffix}", label, f"{label}-GGUF", is_convertible=False)


def _qwen3_5() -> Iterator[ShortName]:
    for size, spelled in _sizes("0.8B 2B 4B 9B 27B 35B-A3B 122B-A10B 397B-A17B"):
        label = f"Qwen3.5-{spelled}"
        yield ShortName(f"qwen3.5:{size}", f"Qwen/{label}", f"unsloth/{label}-GGUF", is_convertible=False)


SHORT_NAMES: Mapping[str, ShortName] = {
    entry.name: entry for family in (_qwen3, _qwen3_2507, _qwen3_coder, _qwen3_next, _qwen3_5) for entry in family()
}

FAMILIES = tuple(dict.fromkeys(name.split(":")[0] for name in SHORT_NAMES))


def of_family(family: str) -> tuple[str, ...]:
    """Return the short names of a family."""
    return tuple(name for name in SHORT_NAMES if name.split(":")[0] == family)
