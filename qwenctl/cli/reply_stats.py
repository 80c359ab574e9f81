"""What is said about an answer besides the answer: as lines for people, as values for --json.

Rates are tokens a second on the engine's clock: prefill counts the prompt tokens that were computed, decode the
generated ones after the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from qwenctl.cli.offload_report import offload_pairs
from qwenctl.core import FinishReason, ModelInfo, Timing, Usage
from qwenctl.services.generation import PreparedPrompt
from qwenctl.services.reply import ReplyDone
from qwenctl.services.sampling_defaults import SamplingChoice
from qwenctl.units import format_seconds

_ORIGINS = {"mode": "for this mode", "file": "from the model file", "option": "as asked", "chance": "by chance"}
_THINKING_ENDS = {
    "model": "ended by the model",
    "budget": "ended when its tokens were used up",
    "asked": "ended as asked",
    "loop": "ended because it repeated itself",
    None: "not ended",
}


def tokens_per_second(n_tokens: int, seconds: float) -> float | None:
    """Return the rate, None where there is nothing to divide."""
    return n_tokens / seconds if n_tokens > 0 and seconds > 0 else None


def prefill_rate(usage: Usage, timing: Timing) -> float | None:
    """Return the prompt tokens computed a second."""
    return tokens_per_second(usage.n_prompt_tokens - usage.n_cached_tokens, timing.prefill_s)


def decode_rate(usage: Usage, timing: Timing) -> float | None:
    """Return the tokens generated a second after the first one."""
    return tokens_per_second(usage.n_generated_tokens - 1, timing.decode_s)


def mode_name(thinking: bool) -> str:
    """Return how a mode is called."""
    return "thinking" if thinking else "no thinking"


def finish_note(done: ReplyDone, limit: int | None, asked: int | None, n_ctx: int) -> str | None:
    """Return a line if an answer is incomplete, None if the model ended it.

    Args:
        limit: the most tokens that the request allowed.
        asked: those that the user asked for.
        n_ctx: tokens of context.
    """
    if done.reason is FinishReason.CANCELLED:
        return "stopped; what there is was kept"
    if done.reason is not FinishReason.LENGTH:
        return None
    n_tokens = done.usage.n_generated_tokens
    if done.usage.n_prompt_tokens + n_tokens >= n_ctx:
        why = f"the context of {n_ctx} tokens is full (--ctx makes it larger)"
    elif asked is not None or limit is None:
        why = f"{n_tokens} tokens were allowed (--max-tokens)"
    else:
        why = f"{n_tokens} tokens is the usual limit (--max-tokens sets another)"
    where = "" if done.closed else " while the model was still thinking"
    return f"the answer ends here{where}: {why}"


def thinking_note(prepared: PreparedPrompt, done: ReplyDone) -> str | None:
    """Return a line if the thinking was ended though nobody had asked for that."""
    if done.thinking_end == "loop":
        # Qwen3's GGUF model cards, section Best Practices
        advice = "" if prepared.sampling.params.presence_penalty else " (against that: --presence-penalty, up to 1.5)"
        return f"the thinking repeated itself without end and was ended{advice}"
    if done.thinking_end == "budget" and prepared.mode.budget is None:
        n_tokens = done.n_reasoning_tokens
        return f"the thinking was ended after {n_tokens} tokens to leave room for the answer (--max-tokens, --ctx)"
    return None


def stats_lines(
    info: ModelInfo, prepared: PreparedPrompt, done: ReplyDone, *, offload: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the lines of --stats and /stats; `offload` is what the expert scheduler did since the model was opened."""
    usage, timing = done.usage, done.timing
    n_used = usage.n_prompt_tokens + usage.n_generated_tokens
    pairs = [
        ("model", f"{info.name} ({info.architecture}, {info.path})"),
        ("mode", f"{mode_name(prepared.thinking)} ({prepared.mode.why})"),
        *_thinking_pairs(prepared, done),
        *_sampling_pairs(prepared.sampling, timing),
        ("prompt", f"{usage.n_prompt_tokens} tokens{_cached(usage)}"),
        ("generated", f"{usage.n_generated_tokens} tokens"),
        ("first token", f"after {timing.queued_s + timing.prefill_s:.2f} s"),
        ("prefill", _rate(prefill_rate(usage, timing), timing.prefill_s)),
        ("decode", _rate(decode_rate(usage, timing), timing.decode_s)),
        ("context", f"{n_used} of {info.n_ctx} tokens ({n_used / info.n_ctx:.0%})"),
        *(offload_pairs(offload) if offload else []),
    ]
    width = max(len(name) for name, _ in pairs)
    return [f"{name:<{width}}  {value}" for name, value in pairs]


def stats_values(usage: Usage, timing: Timing) -> dict[str, Any]:
    """Return the `usage` and `timing` members of a JSON answer."""
    return {
        "usage": {
            "prompt_tokens": usage.n_prompt_tokens,
            "cached_tokens": usage.n_cached_tokens,
            "cached_tokens_from_disk": usage.n_from_disk,
            "generated_tokens": usage.n_generated_tokens,
        },
        "timing": {
            "queued_s": round(timing.queued_s, 4),
            "prefill_s": round(timing.prefill_s, 4),
            "decode_s": round(timing.decode_s, 4),
            "prefill_tokens_per_s": _rounded(prefill_rate(usage, timing)),
            "decode_tokens_per_s": _rounded(decode_rate(usage, timing)),
        },
    }


def sampling_values(sampling: SamplingChoice, timing: Timing) -> dict[str, dict[str, Any]]:
    """Return each sampling parameter with its value and where that came from."""
    values = {name: value for name, value in asdict(sampling.params).items() if name not in ("grammar", "seed")}
    shown = {name: {"value": value, "from": sampling.origins[name]} for name, value in values.items()}
    return {**shown, "seed": {"value": timing.seed, "from": _seed_origin(sampling)}}


def _thinking_pairs(prepared: PreparedPrompt, done: ReplyDone) -> list[tuple[str, str]]:
    if not done.n_reasoning_tokens:
        return []
    budget = "" if prepared.mode.budget is None else f", {prepared.mode.budget} allowed"
    return [("thought", f"{done.n_reasoning_tokens} tokens{budget}, {_THINKING_ENDS[done.thinking_end]}")]


def _sampling_pairs(sampling: SamplingChoice, timing: Timing) -> list[tuple[str, str]]:
    """Return one pair for each origin. Defaults that switch something off go without saying."""
    by_origin: dict[str, list[str]] = {}
    for name, entry in sampling_values(sampling, timing).items():
        if entry["from"] != "default":
            by_origin.setdefault(_ORIGINS[entry["from"]], []).append(f"{name} {_number(entry['value'])}")
    return [("sampling", f"{', '.join(values)} ({origin})") for origin, values in by_origin.items()]


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seed_origin(sampling: SamplingChoice) -> str:
    return "option" if sampling.params.seed is not None else "chance"


def _cached(usage: Usage) -> str:
    """Return how many of a prompt's tokens were there already, and where."""
    n_in_memory = usage.n_cached_tokens - usage.n_from_disk
    there = [(n_in_memory, "memory"), (usage.n_from_disk, "disk")]
    return "".join(f", {n_tokens} of them from {place}" for n_tokens, place in there if n_tokens) or ", all computed"


def _rate(rate: float | None, seconds: float) -> str:
    return f"{rate:.1f} tokens/s ({format_seconds(seconds)})" if rate else format_seconds(seconds)


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 2)
