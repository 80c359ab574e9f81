"""How a model likes to be sampled: a table of families and modes, the model file's own wishes, the user's options.

Later ones win, and each value remembers where it came from, so that `--stats` can say so. Pure: knows no files.

Sources of the table: the model cards, section Best Practices, of Qwen3 and its 2507 models (alike in each mode),
Qwen3-Next, Qwen3-Coder, Qwen3-Coder-Next, and Qwen3.5 (general tasks); llama.cpp's defaults for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from qwenctl.core import SamplingParams
from qwenctl.errors import InvalidRequest

Origin = Literal["default", "mode", "file", "option"]

MAX_TOKENS_THINKING = 32_768  # the model cards' output length for most queries
MAX_TOKENS = 16_384

_QWEN3_THINKING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
_QWEN3_PLAIN = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0}
_OTHERS = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05}
_QWEN35_THINKING = {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "presence_penalty": 1.5}
_QWEN35_PLAIN = _QWEN3_PLAIN | {"presence_penalty": 1.5}
_QWEN3_CODER = _QWEN3_PLAIN | {"repeat_penalty": 1.05}
_CODER_NEXT = {"temperature": 1.0, "top_p": 0.95, "top_k": 40, "min_p": 0.0}
_TABLE: Mapping[tuple[str, bool], Mapping[str, float]] = {  # (family, thinking)
    ("qwen3", True): _QWEN3_THINKING,
    ("qwen3", False): _QWEN3_PLAIN,
    ("qwen3moe", True): _QWEN3_THINKING,
    ("qwen3moe", False): _QWEN3_PLAIN,
    ("qwen3next", True): _QWEN3_THINKING,
    ("qwen3next", False): _QWEN3_PLAIN,
    ("qwen35", True): _QWEN35_THINKING,
    ("qwen35", False): _QWEN35_PLAIN,
    ("qwen35moe", True): _QWEN35_THINKING,
    ("qwen35moe", False): _QWEN35_PLAIN,
    ("qwen3moe coder", False): _QWEN3_CODER,
    ("qwen3next coder", False): _CODER_NEXT,
}
_NEVER_GREEDY = frozenset({"qwen3", "qwen3moe"})  # while they think, by their cards

# general.sampling.* → our parameter
_FILE_NAMES = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "penalty_last_n",
}
_WHOLE_NUMBERS = frozenset({"top_k", "penalty_last_n"})
_NAMES = tuple(field.name for field in fields(SamplingParams))


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """Sampling parameters and where each came from."""

    params: SamplingParams
    origins: Mapping[str, Origin]
    notes: tuple[str, ...] = ()


def usual_max_tokens(*, thinking: bool, think_budget: int | None) -> int:
    """Return how many tokens a reply may have where nobody says it; a thinking budget comes with room for an answer."""
    return max(MAX_TOKENS_THINKING, (think_budget or 0) + MAX_TOKENS) if thinking else MAX_TOKENS


def sampling_family(architecture: str, *, thinks: bool, xml_calls: bool) -> str:
    """Return the family that the table knows a model by: its architecture, and whether it is one of the coders.

    Qwen3-Coder has the architecture of other Qwen3 models. It never thinks, and its template asks for tool calls in a
    form of its own; Qwen3.5, which shares the form, thinks.

    Args:
        architecture: as in `general.architecture`.
        thinks: whether the model can think.
        xml_calls: the template writes calls of tools as Qwen3-Coder does.
    """
    coder = f"{architecture} coder"
    return coder if xml_calls and not thinks and (coder, False) in _TABLE else architecture


def choose_sampling(
    family: str,
    *,
    thinking: bool,
    usual_mode: bool,
    from_file: Mapping[str, float],
    options: Mapping[str, Any],
) -> SamplingChoice:
    """Return the parameters for one reply.

    Args:
        family: as `sampling_family` returns it.
        thinking: whether the model will think.
        usual_mode: whether that is what the model does when nothing is said. What a file wishes is meant for that mode:
            a hybrid Qwen3 asks for its thinking values, and they would be wrong with thinking off.
        from_file: `general.sampling.*`, with or without that prefix.
        options: parameters of `SamplingParams` that the user gave.

    Raises:
        InvalidRequest: an option is unknown or out of range.
    """
    values: dict[str, Any] = dict(_TABLE.get((family, thinking), _OTHERS))
    origins: dict[str, Origin] = {name: "mode" if name in values else "default" for name in _NAMES}
    wishes, notes = _usable_wishes(from_file) if usual_mode else ({}, ())
    values |= wishes
    origins |= dict.fromkeys(wishes, "file")
    unknown = sorted(set(options) - set(_NAMES))
    if unknown:
        raise InvalidRequest(f"unknown sampling parameter {unknown[0]!r}", f"there are {', '.join(_NAMES)}")
    values |= options
    origins |= dict.fromkeys(options, "option")
    try:
        params = SamplingParams(**values)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    if thinking and params.temperature == 0 and family in _NEVER_GREEDY:
        notes += ("Qwen3 advises against temperature 0 while it thinks: it may repeat itself without end",)
    return SamplingChoice(params, MappingProxyType(origins), notes)


def _usable_wishes(from_file: Mapping[str, float]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The file's values under our names; those that make no sense are left out and noted."""
    wishes: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in from_file.items():
        name = _FILE_NAMES.get(key.removeprefix("general.sampling."))
        if name is None:
            continue
        wish: dict[str, Any] = {name: value}
        try:
            SamplingParams(**wish)
        except (ValueError, TypeError):
            notes.append(f"the model file's {key} = {value!r} makes no sense and is ignored")
            continue
        wishes[name] = int(value) if name in _WHOLE_NUMBERS else float(value)
    return wishes, tuple(notes)
