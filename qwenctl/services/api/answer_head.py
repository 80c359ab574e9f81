"""What all chunks and answers to one request share, in OpenAI's form: id, time, model; and usage, logprobs, endings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl import __version__
from qwenctl.core import FinishReason, ModelInfo, TokenChance, TokenLogprob
from qwenctl.services.reply import ReplyDone


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Who answers, when."""

    id: str  # "chatcmpl-…"
    model: str
    created_s: int  # Unix time
    fingerprint: str | None = None  # OpenAI's system_fingerprint: same seed, same fingerprint, same answer


def fingerprint_of(info: ModelInfo) -> str:
    """Return a name for a model's file and this version of the program."""
    what = f"{info.name}\n{info.architecture}\n{info.n_weights}\n{info.file_bytes}\n{info.chat_template}"
    return f"qwenctl-{__version__}-{hashlib.sha256(what.encode('utf-8', 'replace')).hexdigest()[:12]}"


def head_members(head: AnswerHead, kind: str) -> dict[str, Any]:
    """Return the members that an answer and each chunk begin with."""
    return {
        "id": head.id,
        "object": kind,
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
    }


def usage_members(replies: Sequence[ReplyDone], n_per_prompt: int | None = None) -> dict[str, Any]:
    """Return the tokens of all `replies` to one body.

    Args:
        n_per_prompt: how many in a row answer the same prompt, which counts once; None: all of them.
    """
    firsts = [done.usage for done in replies[:: n_per_prompt or len(replies)]]
    n_prompt = sum(usage.n_prompt_tokens for usage in firsts)
    n_generated = sum(done.usage.n_generated_tokens for done in replies)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": sum(usage.n_cached_tokens for usage in firsts)},
        "completion_tokens_details": {"reasoning_tokens": sum(done.n_reasoning_tokens for done in replies)},
    }


def own_members(done: ReplyDone, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return what OpenAI's form has no place for: the seed that was used, seconds, how the thinking ended, notes."""
    timing = done.timing
    return {
        "seed": timing.seed,
        "queued_s": round(timing.queued_s, 4),
        "prefill_s": round(timing.prefill_s, 4),
        "decode_s": round(timing.decode_s, 4),
        "thinking_end": done.thinking_end,
        **({"notes": list(notes)} if notes else {}),
    }


def finish_reason(done: ReplyDone, *, calls_tools: bool) -> str:
    """Return OpenAI's word for why a reply ended."""
    if done.reason is FinishReason.LENGTH:
        return "length"
    return "tool_calls" if calls_tools else "stop"


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> Mapping[str, Any]:
    """Return logprobs in the form of chat completions."""
    content = [
        {**_chance(token.chosen), "top_logprobs": [_chance(likely) for likely in token.likeliest]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob], offset: int = 0) -> Mapping[str, Any]:
    """Return logprobs in the form of completions; `offset`: characters of the text before."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.chosen.text)
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [_finite(token.chosen.logprob) for token in tokens],
        "top_logprobs": [{likely.text: _finite(likely.logprob) for likely in token.likeliest} for token in tokens],
        "text_offset": offsets,
    }


def _chance(chance: TokenChance) -> dict[str, Any]:
    return {
        "token": chance.text,
        "logprob": _finite(chance.logprob),
        "bytes": list(chance.text.encode("utf-8", "replace")),
    }


def _finite(logprob: float) -> float:
    """JSON has no -inf; OpenAI writes this number."""
    return max(logprob, -9999.0)
