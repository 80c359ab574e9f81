"""The plan's figures of memory against llama.cpp's own accounting, at true shapes, without weights."""

from __future__ import annotations

import pytest

from quant.recipe import OUTPUT_TYPES
from scripts.plan_check.memory_cases import CASES, compare, read_outline
from scripts.plan_check.no_alloc import measure

_OUTPUT = OUTPUT_TYPES["q4_k_m"]


@pytest.mark.parametrize("name", CASES)
def test_memory_is_within_two_percent_of_what_llama_cpp_counts(name: str) -> None:
    outline = read_outline(name)
    weights = sum(tensor.n_bytes for tensor in outline.gguf(_OUTPUT).tensors.values())
    for one in compare(outline, weights, measure(outline, _OUTPUT, CASES[name])):
        assert abs(one.planned.kv - one.counted.kv) <= 0.001 * one.counted.kv, one
        assert abs(one.planned.states - one.counted.states) <= 0.001 * one.counted.states, one
        assert abs(one.error) < 0.02, one
        assert -0.03 < one.context_error < 0.07, one


def test_there_are_enough_cases() -> None:
    assert sum(map(len, CASES.values())) >= 30
