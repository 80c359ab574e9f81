from __future__ import annotations

from typing import Any

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.sampling_defaults import SamplingChoice, choose_sampling, sampling_family, usual_max_tokens


def choose(architecture: str = "qwen3moe", **given: Any) -> SamplingChoice:
    return choose_sampling(
        architecture, **{"thinking": True, "usual_mode": True, "from_file": {}, "options": {}, **given}
    )


@pytest.mark.parametrize(
    ("architecture", "thinking", "expected"),
    [
        ("qwen3", True, (0.6, 0.95, 20, 0.0)),
        ("qwen3moe", True, (0.6, 0.95, 20, 0.0)),
        ("qwen3moe", False, (0.7, 0.8, 20, 0.0)),
        ("qwen3next", True, (0.6, 0.95, 20, 0.0)),
        ("qwen3next", False, (0.7, 0.8, 20, 0.0)),
        ("qwen3next coder", False, (1.0, 0.95, 40, 0.0)),
        ("llama", False, (0.8, 0.95, 40, 0.05)),
        ("llama", True, (0.8, 0.95, 40, 0.05)),
    ],
)
def test_table(architecture: str, thinking: bool, expected: tuple[float, ...]) -> None:
    choice = choose(architecture, thinking=thinking)
    params = choice.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == expected
    assert choice.origins["top_k"] == "mode"
    assert choice.origins["presence_penalty"] == "default"


def test_families_that_want_a_penalty() -> None:
    for family in ("qwen35", "qwen35moe"):
        for thinking, temperature in ((True, 1.0), (False, 0.7)):
            choice = choose(family, thinking=thinking)
            assert (choice.params.temperature, choice.params.presence_penalty) == (temperature, 1.5)
            assert choice.origins["presence_penalty"] == "mode"
    assert choose("qwen3moe coder", thinking=False).params.repeat_penalty == 1.05


@pytest.mark.parametrize(
    ("architecture", "thinks", "xml_calls", "family"),
    [
        ("qwen3moe", False, True, "qwen3moe coder"),  # Qwen3-Coder
        ("qwen3next", False, True, "qwen3next coder"),
        ("qwen3moe", False, False, "qwen3moe"),  # Instruct-2507
        ("qwen35moe", True, True, "qwen35moe"),
        ("llama", False, True, "llama"),
    ],
)
def test_families(architecture: str, thinks: bool, xml_calls: bool, family: str) -> None:
    assert sampling_family(architecture, thinks=thinks, xml_calls=xml_calls) == family


@pytest.mark.parametrize(
    ("thinking", "budget", "n_tokens"),
    [(False, None, 16_384), (True, None, 32_768), (True, 64, 32_768), (True, 38_912, 38_912 + 16_384)],
)
def test_usual_lengths(thinking: bool, budget: int | None, n_tokens: int) -> None:
    assert usual_max_tokens(thinking=thinking, think_budget=budget) == n_tokens


def test_file_then_options_win() -> None:
    wishes = {"general.sampling.temp": 0.5, "top_k": 30.0, "penalty_repeat": 1.05, "mirostat": 2}
    choice = choose(from_file=wishes, options={"top_k": 5, "seed": 1})
    assert (choice.params.temperature, choice.params.top_k, choice.params.repeat_penalty) == (0.5, 5, 1.05)
    assert isinstance(choice.params.top_k, int)
    origins = {name: choice.origins[name] for name in ("temperature", "top_k", "repeat_penalty", "top_p", "seed")}
    assert origins == {
        "temperature": "file",
        "top_k": "option",
        "repeat_penalty": "file",
        "top_p": "mode",
        "seed": "option",
    }
    assert choice.notes == ()


def test_a_files_wishes_are_for_its_usual_mode() -> None:
    choice = choose(thinking=False, usual_mode=False, from_file={"temp": 0.6, "top_p": 0.95})
    assert (choice.params.temperature, choice.params.top_p) == (0.7, 0.8)


def test_wishes_that_make_no_sense_are_noted() -> None:
    choice = choose(from_file={"temp": -1.0, "top_p": float("nan"), "top_k": "many", "min_p": 0.1})
    assert (choice.params.temperature, choice.params.top_p, choice.params.min_p) == (0.6, 0.95, 0.1)
    assert len(choice.notes) == 3
    assert "temp = -1.0" in choice.notes[0]


def test_options_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"top_p must lie between 0\.0 and 1\.0, not 2"):
        choose(options={"top_p": 2})
    with pytest.raises(InvalidRequest, match="unknown sampling parameter 'top_q'"):
        choose(options={"top_q": 2})


def test_greedy_thinking_is_noted() -> None:
    assert "temperature 0" in choose(options={"temperature": 0}).notes[0]
    assert choose(thinking=False, options={"temperature": 0}).notes == ()
