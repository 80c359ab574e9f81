"""What a plan says besides figures: contexts beyond the trained one, and where it is approximate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quant.errors import UnsupportedArchitecture
from quant.json_fields import JsonFields
from quant.model_outline import ModelOutline, outline_of_config
from qwenctl.planning.cautions import cautions
from qwenctl.planning.context_limits import advise_context
from scripts.plan_check.memory_cases import CONFIGS, K, read_outline


def with_metadata(outline: ModelOutline, **pairs: Any) -> ModelOutline:
    named = {f"{outline.architecture}.{key.replace('__', '.')}": value for key, value in pairs.items()}
    return replace(outline, metadata={**outline.metadata, **named})


def test_within_the_trained_context_nothing_is_said() -> None:
    advice = advise_context(read_outline("Qwen3-235B-A22B-Instruct-2507"), 256 * K)
    assert (advice.is_trained, advice.notes) == (True, ())


def test_a_million_tokens_of_a_2507_model() -> None:
    notes = " ".join(advise_context(read_outline("Qwen3-235B-A22B-Instruct-2507"), 1024 * K).notes)
    assert all(word in notes for word in ("262,144", "factor of 4 ", "dual chunk attention", "rope_scaling"))


def test_yarn_of_a_model_of_32k() -> None:
    notes = advise_context(read_outline("Qwen3-8B"), 128 * K).notes
    assert "factor of 3.5 " in notes[1]
    assert not any("dual chunk" in note for note in notes)


def test_beyond_four_times_is_nonsense() -> None:
    assert "nonsense" in advise_context(read_outline("Qwen3-8B"), 256 * K).notes[-1]


def test_a_file_that_has_yarn_reaches_further() -> None:
    outline = with_metadata(
        read_outline("Qwen3-8B"), rope__scaling__factor=4.0, rope__scaling__original_context_length=32 * K
    )
    assert advise_context(outline, 128 * K).is_trained
    assert not advise_context(outline, 256 * K).is_trained


def test_families_that_were_held_exact_need_no_caution() -> None:
    assert cautions(read_outline("Qwen3-8B")) == ()
    assert "not converted here" in cautions(read_outline("DeepSeek-V3"))[0]
    assert len(cautions(read_outline("Qwen3-Next-80B-A3B-Instruct"))) == 1


def test_what_is_only_approximate_is_said() -> None:
    other = replace(read_outline("Qwen3-8B"), metadata={"general.architecture": "gemma9"})
    assert "not held against llama.cpp" in cautions(other)[0]
    assert "window" in cautions(with_metadata(other, attention__sliding_window=1024))[0]
    assert "recurrent" in cautions(with_metadata(other, ssm__state_size=128))[0]


def test_a_family_that_nothing_here_knows_is_refused_by_name() -> None:
    fields = JsonFields(CONFIGS / "x.json", {"architectures": ["MysteryForCausalLM"]})
    with pytest.raises(UnsupportedArchitecture, match="MysteryForCausalLM"):
        outline_of_config("x", fields)
