"""The layout that follows from rates: by estimated time of a prompt and an answer, what is nearest to stock on ties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from qwenctl.moe.calibration import Calibration, CalibrationKey, DiskRate, ExpertRate
from qwenctl.moe.layout_choice import ExpertKind, ExpertShape, LayoutChoice, choose, prefill_rates
from qwenctl.moe.microbatch import experts_used
from qwenctl.moe.prefill_rates import PrefillRates

EVERY_WAY = frozenset([("plain", "id"), ("plain", "expert"), ("repack", "id"), ("repack", "expert"), ("amx", "expert")])
KIND = ExpertKind("Q4_K", 12, 3 * 768 * 2048, EVERY_WAY)
SHAPE = ExpertShape((KIND,), 128, 8)
KEY = CalibrationKey("cpu", 2, "library", "shape", "/")
# GMAC/s at 1 and at 512 tokens an expert; what is not listed was not measured
ISSUE = {("plain", "id"): (31, 125), ("repack", "id"): (41, 65), ("amx", "expert"): (51, 149)}


def measured(rates: dict[tuple[str, str], tuple[float, float]], name: str = "Q4_K") -> Calibration:
    return Calibration(
        KEY,
        tuple(
            ExpertRate(name, layout, operation, n_tokens, rate * 1e9)
            for (layout, operation), both in rates.items()
            for n_tokens, rate in zip((1, 512), both, strict=True)
        ),
    )


def way(choice: LayoutChoice | None) -> tuple[str, bool, bool] | None:
    return choice and (choice.layout, choice.decode_per_expert, choice.batch_per_expert)


def test_the_fastest_layout_is_taken() -> None:
    assert way(choose(measured(ISSUE), SHAPE)) == ("amx", True, True)


def test_the_estimate_is_the_products_of_a_prompt_and_an_answer() -> None:
    """128 experts, 8 a token: 2,048 tokens use all, 128 tokens each, a quarter of the way from 1 to 512."""
    choice = choose(measured(ISSUE), SHAPE)
    assert choice is not None
    work = 12 * 8 * KIND.macs
    per_expert = 2048 * 8 / experts_used(128, 8, 2048)
    assert per_expert == pytest.approx(128)
    amx = 2048 * work / (51e9 + 98e9 * (per_expert - 1) / 511) + 256 * work / 51e9
    stock = 2048 * work / (31e9 + 94e9 * (per_expert - 1) / 511) + 256 * work / 31e9
    assert choice.typical_s == pytest.approx(amx, rel=1e-9)
    assert choice.stock_s == pytest.approx(stock, rel=1e-9)
    assert choice.gain == pytest.approx(stock / amx)


def test_prompts_count_as_well_as_answers() -> None:
    """Rearranged weights generate a third faster, and compute the prompt at half the speed: plain."""
    rates = {name: both for name, both in ISSUE.items() if name[0] != "amx"}
    assert way(choose(measured(rates), SHAPE)) == ("plain", False, False)
    assert way(choose(measured(rates | {("repack", "id"): (300, 120)}), SHAPE)) == ("repack", False, False)


def test_with_all_in_memory_neither_prompts_nor_answers_may_be_slower_than_stocks_better_setting() -> None:
    """As measured on a Xeon without AMX: a product an expert in the file's layout is fastest in sum."""
    rates = {("plain", "id"): (32, 330), ("plain", "expert"): (22, 600)}  # 106 and 165 at 128 tokens
    rates |= {("repack", "id"): (36, 100), ("repack", "expert"): (35.5, 420)}  # 52 and 131
    chosen, streaming = choose(measured(rates), SHAPE), choose(measured(rates), SHAPE, resident=False)
    assert chosen is not None
    assert streaming is not None
    assert (chosen.layout, chosen.batch_per_expert, chosen.never_slower) == ("repack", True, True)
    assert (streaming.layout, streaming.batch_per_expert, streaming.never_slower) == ("plain", True, False)
    assert streaming.typical_s < chosen.typical_s < chosen.stock_s


def test_one_token_and_many_may_be_computed_in_different_ways() -> None:
    rates = {("plain", "id"): (31, 60), ("plain", "expert"): (20, 125)}
    assert way(choose(measured(rates), SHAPE, layouts=("plain",))) == ("plain", False, True)
    rates = {("plain", "id"): (31, 200), ("plain", "expert"): (60, 60)}
    assert way(choose(measured(rates), SHAPE, layouts=("plain",))) == ("plain", True, False)


def test_smaller_micro_batches_have_fewer_tokens_an_expert() -> None:
    rates = {("plain", "id"): (40, 200), ("amx", "expert"): (60, 150)}
    assert way(choose(measured(rates), SHAPE, n_ubatch=8192)) == ("plain", False, False)
    assert way(choose(measured(rates), SHAPE, n_ubatch=64)) == ("amx", True, True)


def test_ties_go_to_what_stock_computes() -> None:
    same = dict.fromkeys(EVERY_WAY, (50.0, 100.0))
    assert way(choose(measured(same), SHAPE)) == ("plain", False, False)
    assert way(choose(measured(same | {("amx", "expert"): (51, 102)}), SHAPE)) == ("plain", False, False)
    assert way(choose(measured(same | {("amx", "expert"): (52, 104)}), SHAPE)) == ("amx", True, True)


def test_only_what_is_allowed() -> None:
    calibration = measured(ISSUE)
    assert way(choose(calibration, SHAPE, layouts=("plain", "repack"))) == ("plain", False, False)
    assert way(choose(calibration, SHAPE, operations=("id",))) == ("plain", False, False)
    assert way(choose(calibration, SHAPE, operations=("expert",), layouts=("plain",))) == ("plain", True, True)
    assert choose(calibration, SHAPE, layouts=("amx",), operations=("id",)) is None
    assert choose(calibration, SHAPE, layouts=("unknown",)) is None


def test_a_way_must_be_open_to_every_layer() -> None:
    """Gate and up of different types cannot be joined, so there is no product an expert, and no AMX."""
    apart = ExpertKind("Q4_K,Q5_K/Q6_K", 1, KIND.macs, frozenset([("plain", "id"), ("repack", "id")]))
    assert way(choose(measured(ISSUE), replace(SHAPE, kinds=(KIND, apart)))) == ("plain", False, False)
    nothing = replace(apart, ways=frozenset([("plain", "expert")]))
    assert choose(measured(ISSUE), replace(SHAPE, kinds=(apart, nothing)), operations=("expert",)) is None


def test_kinds_count_by_their_layers() -> None:
    """AMX is three times as fast for one kind, at a third of the speed for the other."""
    other = replace(KIND, name="Q4_K/Q6_K")
    fast = measured({("plain", "id"): (30, 30), ("amx", "expert"): (90, 90)})
    slow = measured({("plain", "id"): (90, 90), ("amx", "expert"): (30, 30)}, other.name)
    both = replace(fast, experts=(*fast.experts, *slow.experts))
    few, many = replace(other, n_layers=1), replace(other, n_layers=40)
    assert way(choose(both, replace(SHAPE, kinds=(KIND, few)), operations=("id", "expert"))) == ("amx", True, True)
    assert way(choose(both, replace(SHAPE, kinds=(many, KIND)))) == ("plain", False, False)


def test_a_kind_that_a_layout_leaves_alone_is_as_fast_as_plain() -> None:
    """Nothing of "IQ3_S" can be rearranged, so only its plain rates exist."""
    alone = replace(KIND, name="IQ3_S", ways=EVERY_WAY | {("amx", "id")})
    rates = measured(ISSUE)
    plain = measured({("plain", "id"): (10, 10), ("plain", "expert"): (10, 10)}, "IQ3_S")
    both = replace(rates, experts=(*rates.experts, *plain.experts))
    choice, only = choose(both, replace(SHAPE, kinds=(KIND, alone))), choose(both, SHAPE)
    assert choice is not None
    assert only is not None
    assert way(choice) == ("amx", True, True)
    slow_s = 12 * 8 * KIND.macs * (2048 + 256) / 10e9
    assert choice.typical_s == pytest.approx(only.typical_s + slow_s)


@pytest.mark.parametrize("calibration", [None, Calibration(KEY)])
def test_without_rates_amx_where_it_is_and_plain_elsewhere(calibration: Calibration | None) -> None:
    assert way(choose(calibration, SHAPE)) == ("amx", True, True)
    without = replace(KIND, ways=frozenset(one for one in EVERY_WAY if one[0] != "amx"))
    choice = choose(calibration, replace(SHAPE, kinds=(without,)))
    assert way(choice) == ("plain", False, True)
    assert choice is not None
    assert not choice.never_slower  # answers: stock's rearranged weights are quicker


def test_rates_for_sizing() -> None:
    calibration = replace(measured(ISSUE), disk=(DiskRate(4, 3e9),))
    assert prefill_rates(calibration, SHAPE, "amx").expert_macs_s == ((1.0, 51e9), (512.0, 149e9))
    assert prefill_rates(calibration, SHAPE, "amx").disk_bytes_s == 3e9
    assert prefill_rates(measured({("plain", "id"): (1, 2)}), SHAPE, "amx").expert_macs_s == ((1.0, 1e9), (512.0, 2e9))
    assert prefill_rates(None, SHAPE, "plain") == PrefillRates()
    assert prefill_rates(Calibration(KEY), SHAPE, "plain") == PrefillRates(dense_macs_s=120e9)


def test_only_what_is_rearranged_costs_rearranging_by_all_threads() -> None:
    calibration = measured(ISSUE)
    assert prefill_rates(calibration, SHAPE, "plain", 4).arrange_bytes_s == math.inf
    assert prefill_rates(None, SHAPE, "amx", 4).arrange_bytes_s == 4 * prefill_rates(None, SHAPE, "amx").arrange_bytes_s
    assert prefill_rates(calibration, SHAPE, "repack", 2).arrange_bytes_s < 1e10


@pytest.mark.parametrize("changes", [{"kinds": ()}, {"n_experts_used": 0}, {"n_experts_used": 129}])
def test_shapes_that_no_model_has(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="kinds"):
        replace(SHAPE, **changes)  # type: ignore[arg-type]
