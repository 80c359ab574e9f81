"""Adding up: every way in which inputs come gives what a loop over tokens gives."""

from __future__ import annotations

import numpy as np

from qwenctl.services.activation_moments import ActivationMoments, plan_moments
from qwenctl.services.activation_sums import ActivationSums, group_by_expert
from qwenctl.services.activation_totals import ActivationTotals

RANDOM = np.random.default_rng(1)
N_TOKENS, N_EXPERTS, N_USED, N_COLUMNS = 40, 6, 2, 8
X = RANDOM.standard_normal((N_TOKENS, N_COLUMNS)).astype(np.float32)
ROUTED = np.argsort(RANDOM.random((N_TOKENS, N_EXPERTS - 1)), axis=1)[:, :N_USED].astype(np.int32)  # never the last
HIDDEN = RANDOM.standard_normal((N_TOKENS, N_USED, N_COLUMNS)).astype(np.float32)


def by_loop(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sums, moments and counts of rows (n_tokens, n_used, n_columns)."""
    sums = np.zeros((N_EXPERTS, N_COLUMNS))
    moments = np.zeros((N_EXPERTS, N_COLUMNS, N_COLUMNS))
    counts = np.zeros(N_EXPERTS)
    for token in range(N_TOKENS):
        for place, expert in enumerate(ROUTED[token]):
            row = rows[token, place].astype(np.float64)
            sums[expert] += row**2
            moments[expert] += np.outer(row, row)
            counts[expert] += 1
    return sums, moments, counts


def test_dense_inputs() -> None:
    totals = ActivationTotals()
    totals.moments.n_matrices = {"a": 1}
    for sink in (totals.sums, totals.moments):
        sink.add_rows("a", X[:30])
        sink.add_rows("a", X[30:])
        sink.add_rows("b", X)
    np.testing.assert_allclose(totals.sums.sums["a"][0], (X.astype(np.float64) ** 2).sum(axis=0), rtol=1e-6)
    assert totals.sums.counts["a"].tolist() == [N_TOKENS]
    np.testing.assert_allclose(totals.moments.moments["a"][0], X.T @ X, atol=1e-4)
    assert list(totals.moments.moments) == ["a"]


def test_one_input_for_many_experts() -> None:
    sums, moments = ActivationSums(), ActivationMoments({"each": N_EXPERTS, "common": 1})
    sums.add_routed("each", N_EXPERTS, X, ROUTED)
    for name in ("each", "common", "neither"):
        moments.add_routed(name, N_EXPERTS, X, ROUTED)
    expected, expected_moments, counts = by_loop(np.repeat(X[:, None], N_USED, axis=1))
    np.testing.assert_allclose(sums.sums["each"], expected, rtol=1e-5)
    np.testing.assert_array_equal(sums.counts["each"], counts)
    np.testing.assert_allclose(moments.moments["each"], expected_moments, atol=1e-4)
    np.testing.assert_array_equal(moments.counts["each"], counts)
    np.testing.assert_allclose(moments.moments["common"][0], X.T @ X, atol=1e-4)
    assert moments.counts["common"].tolist() == [N_TOKENS]


def test_inputs_that_differ_by_expert() -> None:
    expected, expected_moments, counts = by_loop(HIDDEN)
    experts, sizes, rows = group_by_expert(HIDDEN, ROUTED)
    assert experts == [0, 1, 2, 3, 4]
    totals = ActivationTotals()
    totals.moments.n_matrices = {"a": N_EXPERTS}
    cut = sizes[0] + 1  # in two calls, the second expert in both, as waves of offloaded experts come
    for sink in (totals.sums, totals.moments):
        sink.add_grouped("a", N_EXPERTS, experts[:2], [sizes[0], 1], rows[:cut])
        sink.add_grouped("a", N_EXPERTS, experts[1:], [sizes[1] - 1, *sizes[2:]], rows[cut:])
    np.testing.assert_allclose(totals.sums.sums["a"], expected, rtol=1e-5)
    np.testing.assert_array_equal(totals.sums.counts["a"], counts)
    np.testing.assert_allclose(totals.moments.moments["a"], expected_moments, atol=1e-4)
    assert totals.n_thin_experts(1) == 0  # not an expert tensor's name


def test_rows_of_an_expert_stay_in_the_order_of_their_tokens() -> None:
    numbered = np.arange(N_TOKENS * N_USED, dtype=np.float32).reshape(N_TOKENS, N_USED, 1)
    experts, sizes, rows = group_by_expert(numbered, ROUTED)
    ends = np.cumsum(sizes)
    for expert, begin, end in zip(experts, ends - sizes, ends, strict=True):
        assert rows[begin:end, 0].tolist() == np.flatnonzero(ROUTED.ravel() == expert).tolist()


def test_what_is_stored_is_restored() -> None:
    totals = ActivationTotals()
    totals.moments.n_matrices = {"blk.0.ffn_down_exps.weight": N_EXPERTS}
    name, groups = "blk.0.ffn_down_exps.weight", group_by_expert(HIDDEN, ROUTED)
    for sink in (totals.sums, totals.moments):
        sink.add_grouped(name, N_EXPERTS, *groups)
    again = ActivationTotals()
    again.restore(totals.arrays())
    again.moments.n_matrices = totals.moments.n_matrices
    for one in (totals, again):
        one.sums.add_grouped(name, N_EXPERTS, *groups)
        one.moments.add_grouped(name, N_EXPERTS, *groups)
    np.testing.assert_array_equal(again.sums.sums[name], totals.sums.sums[name])
    np.testing.assert_array_equal(again.moments.moments[name], totals.moments.moments[name])
    assert again.n_thin_experts(1) == 1


MEMBERS = {
    "blk.0.attn_k.weight": ("blk.0.attn_k.weight", "blk.0.attn_q.weight"),
    "blk.0.attn_output.weight": ("blk.0.attn_output.weight",),
    "blk.0.ffn_gate_inp.weight": ("blk.0.ffn_gate_inp.weight",),
    "blk.0.ffn_gate_exps.weight": ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"),
    "blk.0.ffn_down_exps.weight": ("blk.0.ffn_down_exps.weight",),
}
SHAPES = {
    "blk.0.attn_k.weight": (4, 10),
    "blk.0.attn_output.weight": (10, 20),
    "blk.0.ffn_gate_inp.weight": (3, 10),
    "blk.0.ffn_gate_exps.weight": (3, 5, 10),
    "blk.0.ffn_down_exps.weight": (3, 10, 5),
}


def test_a_budget_is_spent_where_it_helps_most() -> None:
    """Bytes: attention 400 and 1,600; all tokens of the experts 400; down 3 × 100; gate and up of each 1,200."""

    def plan(budget_bytes: int) -> dict[str, int]:
        found = plan_moments(MEMBERS, SHAPES, budget_bytes)
        assert sum(n * 4 * SHAPES[name][-1] ** 2 for name, n in found.items()) <= budget_bytes
        return {name.removeprefix("blk.0.").removesuffix(".weight"): n for name, n in found.items()}

    assert plan(399) == {"ffn_down_exps": 3}
    assert plan(400) == {"attn_k": 1}
    assert plan(1999) == {"attn_k": 1, "ffn_gate_exps": 3, "ffn_down_exps": 3}
    assert plan(2700) == {"attn_k": 1, "attn_output": 1, "ffn_gate_exps": 1, "ffn_down_exps": 3}
    assert plan(3500) == {"attn_k": 1, "attn_output": 1, "ffn_gate_exps": 3, "ffn_down_exps": 3}
