"""Print and parse byte counts, rates and durations, in one way everywhere.

Binary prefixes (GiB) are used for memory, decimal ones (GB) for file sizes and disk, as people read them.
Knows nothing of models; imports nothing of ours.
"""

from __future__ import annotations

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_FACTORS = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "kib": KIB,
    "m": 10**6, "mb": 10**6, "mib": MIB,
    "g": 10**9, "gb": 10**9, "gib": GIB,
    "t": 10**12, "tb": 10**12, "tib": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def format_bytes(n_bytes: float) -> str:
    """Return `n_bytes` with a decimal prefix: 142.1 GB, 731 kB, 12 B."""
    return _format(n_bytes, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"))


def format_memory(n_bytes: float) -> str:
    """Return `n_bytes` with a binary prefix: 23.6 GiB."""
    return _format(n_bytes, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_count(count: float) -> str:
    """Return a number of weights as models are named: 30.5 B, 752.4 M, 12."""
    return _format(count, 1000.0, ("", "K", "M", "B", "T")).strip()


def counted(count: int, noun: str) -> str:
    """Return how many there are: 1 line, 2 lines, 0 lines."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _format(n_bytes: float, step: float, names: tuple[str, ...]) -> str:
    value, position = float(n_bytes), 0
    while abs(value) >= step and position < len(names) - 1:
        value, position = value / step, position + 1
    return f"{value:.0f} {names[0]}" if position == 0 else f"{value:.1f} {names[position]}"


def parse_bytes(text: str) -> int:
    """Return the bytes that `text` names: "48GiB", "130 GB", "4096".

    Raises:
        ValueError: not a number with a known unit; the message names the text and the units.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write a number with B, kB, MiB, MB, GiB, GB, TiB or TB")
    return int(float(match.group(1)) * factor)


def format_seconds(seconds: float) -> str:
    """Return a duration at the precision a reader needs: 0.8 s, 42 s, 3 min 07 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
