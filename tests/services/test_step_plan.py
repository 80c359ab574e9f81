"""What a step computes: bounds, fairness, progress."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.step_plan import (
    Chunk,
    Pending,
    StepLimits,
    StepPlan,
    gap_fillers,
    generating_batch,
    plan_step,
)

_LIMITS = st.builds(StepLimits, st.integers(16, 64), st.integers(1, 32), st.booleans())
_SEQUENCES = st.lists(
    st.tuples(st.integers(0, 50), st.one_of(st.just(1), st.integers(2, 200))), min_size=1, max_size=12
).map(lambda rows: [Pending(slot, cached, cached + more) for slot, (cached, more) in enumerate(rows)])


def _chunks(plan: StepPlan) -> list[Chunk]:
    return [chunk for batch in plan.batches for chunk in batch]


def _prompt_chunks(sequences: list[Pending], limits: StepLimits) -> list[Chunk]:
    generating = _generating(sequences)
    return [chunk for chunk in _chunks(plan_step(sequences, limits)) if chunk.slot not in generating]


def _generating(sequences: list[Pending]) -> set[int]:
    return {one.slot for one in sequences if one.n_known - one.n_cached == 1}


@given(_SEQUENCES, _LIMITS)
def test_no_batch_is_too_large(sequences: list[Pending], limits: StepLimits) -> None:
    for batch in plan_step(sequences, limits).batches:
        assert 0 < sum(chunk.n_tokens for chunk in batch) <= limits.n_batch


@given(_SEQUENCES, _LIMITS)
def test_every_generating_sequence_goes_on_and_comes_first_in_its_batch(
    sequences: list[Pending], limits: StepLimits
) -> None:
    generating = sorted(_generating(sequences))
    (batch,) = plan_step(sequences, limits).batches if limits.shared_cache else (generating_batch(sequences),)
    assert [chunk.slot for chunk in batch[: len(generating)]] == generating
    assert all(chunk.wants_logits and chunk.n_tokens == 1 for chunk in batch[: len(generating)])


@given(_SEQUENCES, _LIMITS)
def test_prompts_are_served_in_order_and_the_oldest_always_gets_on(
    sequences: list[Pending], limits: StepLimits
) -> None:
    chunks = _prompt_chunks(sequences, limits)
    served = list(dict.fromkeys(chunk.slot for chunk in chunks))
    prompts = [one.slot for one in sequences if one.slot not in _generating(sequences)]
    assert served == prompts[: len(served)]
    assert served or not prompts
    ends = {chunk.slot: chunk.first + chunk.n_tokens for chunk in chunks}
    left = {one.slot: one.n_known - ends[one.slot] for one in sequences if one.slot in ends}
    alone = 0 if limits.shared_cache else 1  # with own streams a single last token goes with those that generate
    assert all(left[slot] <= alone for slot in served[:-1])


@given(_SEQUENCES, _LIMITS)
def test_chunks_continue_where_the_cache_ends(sequences: list[Pending], limits: StepLimits) -> None:
    chunks = _chunks(plan_step(sequences, limits))
    for one in sequences:
        mine = [chunk for chunk in chunks if chunk.slot == one.slot]
        ends = [one.n_cached, *(chunk.first + chunk.n_tokens for chunk in mine)]
        assert [chunk.first for chunk in mine] == ends[:-1]
        assert all(chunk.wants_logits == (chunk.first + chunk.n_tokens == one.n_known) for chunk in mine)
        assert all(begin < end <= one.n_known for begin, end in pairwise(ends))


@given(_SEQUENCES, _LIMITS)
def test_while_somebody_generates_prompts_get_about_a_micro_batch(sequences: list[Pending], limits: StepLimits) -> None:
    if _generating(sequences):
        assert sum(chunk.n_tokens for chunk in _prompt_chunks(sequences, limits)) < 2 * limits.n_ubatch


@given(_SEQUENCES, st.integers(16, 64), st.integers(1, 100))
def test_a_full_cache_holds_back_the_newest_and_somebody_always_gets_on(
    sequences: list[Pending], n_batch: int, free_cells: int
) -> None:
    plan = plan_step(sequences, StepLimits(n_batch, 8, True), free_cells)
    assert 0 < plan.n_tokens <= free_cells
    newest = [one.slot for one in reversed(sequences)]
    assert list(plan.held_back) == newest[: len(plan.held_back)]
    assert not {chunk.slot for chunk in _chunks(plan)} & set(plan.held_back)


@given(st.integers(0, 30), st.integers(31, 300), st.lists(st.integers(1, 300), max_size=5))
def test_own_streams_cut_a_prompt_in_the_same_places_whoever_else_runs(
    cached: int, known: int, others: list[int]
) -> None:
    limits = StepLimits(64, 16, False)

    def cuts(companions: list[Pending]) -> list[tuple[int, int]]:
        n_cached, found = cached, []
        while n_cached < known - 1:  # a single token goes with those that generate
            plan = plan_step([*companions, Pending(99, n_cached, known)], limits)
            mine = [(chunk.first, chunk.n_tokens) for chunk in _chunks(plan) if chunk.slot == 99]
            found += mine
            n_cached += sum(n_tokens for _, n_tokens in mine)
            if not mine:  # its turn comes when the others are done
                companions = companions[1:]
        return found

    assert cuts([]) == cuts([Pending(slot, 0, n_tokens) for slot, n_tokens in enumerate(others)])


def _ends(cached: int, known: int, limits: StepLimits) -> list[int]:
    chunks = [chunk for batch in plan_step([Pending(0, cached, known)], limits).batches for chunk in batch]
    assert [chunk.first for chunk in chunks] == [cached, *(chunk.first + chunk.n_tokens for chunk in chunks[:-1])]
    assert all(chunk.n_tokens <= limits.n_ubatch for chunk in chunks)
    return [chunk.first + chunk.n_tokens for chunk in chunks]


def test_chunks_end_at_blocks_of_cells_where_no_more_chunks_come_of_it() -> None:
    limits = StepLimits(2048, 512, False)
    assert _ends(0, 728, limits) == [512, 728]
    assert _ends(20, 728, limits) == [512, 728]
    assert _ends(20, 532, limits) == [532]
    assert _ends(20, 533, limits) == [512, 533]
    assert _ends(20, 1500, limits) == [512, 1024, 1500]
    assert _ends(20, 1044, limits) == [532, 1044]
    assert _ends(300, 1200, limits) == [768, 1200]
    assert _ends(500, 1000, limits) == [1000]


def test_without_the_flash_kernel_chunks_of_dense_models_end_at_every_block() -> None:
    limits = StepLimits(2048, 512, False, cuts_at_blocks=True)
    assert _ends(0, 256, limits) == [256]
    assert _ends(20, 526, limits) == [256, 512, 526]
    assert _ends(224, 400, limits) == [256, 400]
    assert _ends(225, 400, limits) == [400]  # 31 tokens are not worth a pass
    assert _ends(225, 700, limits) == [512, 700]


@given(st.integers(0, 600), st.integers(1, 3000), st.sampled_from([64, 512, 2048]), st.booleans())
def test_all_of_a_prompt_is_computed_in_as_few_chunks_as_can_be(
    cached: int, more: int, n_ubatch: int, cuts: bool
) -> None:
    ends = _ends(cached, cached + more + 1, StepLimits(4096, n_ubatch, False, cuts_at_blocks=cuts))
    assert ends[-1] in (cached + more, cached + more + 1)  # a single last token goes with those that generate
    assert cuts or len(ends) <= -(-(more + 1) // n_ubatch)


def test_a_shared_cache_computes_everything_together() -> None:
    plan = plan_step([Pending(0, 7, 8), Pending(1, 0, 30), Pending(2, 4, 5)], StepLimits(64, 16, True))
    assert plan.batches == ((Chunk(0, 7, 1, True), Chunk(2, 4, 1, True), Chunk(1, 0, 14, False)),)


def test_own_streams_compute_prompts_apart() -> None:
    plan = plan_step([Pending(0, 7, 8), Pending(1, 0, 10), Pending(2, 4, 20)], StepLimits(64, 16, False))
    assert plan.batches == ((Chunk(1, 0, 10, True),), (Chunk(2, 4, 16, True),))
    assert generating_batch([Pending(2, 3, 4), Pending(1, 0, 2), Pending(0, 7, 8)]) == (
        Chunk(0, 7, 1, True),
        Chunk(2, 3, 1, True),
    )


def _generating_at(*slots: int, n_cached: int = 300) -> tuple[Chunk, ...]:
    return generating_batch([Pending(slot, n_cached, n_cached + 1) for slot in slots])


def test_short_gaps_between_streams_are_filled_with_idle_ones() -> None:
    idle = {0: 0, 2: 7, 4: 500, 5: 0, 7: 0, 8: 0, 9: 0}
    assert gap_fillers(_generating_at(1, 3, 6, 10), idle) == (
        Chunk(2, 7, 1, False),
        Chunk(4, 500, 1, False),
        Chunk(5, 0, 1, False),
    )  # three are dearer than a second pass


def test_a_gap_is_left_where_somebody_is_busy_or_an_idle_stream_is_longer_than_all_that_run() -> None:
    assert gap_fillers(_generating_at(1, 3), {}) == ()
    assert gap_fillers(_generating_at(1, 4), {2: 0}) == ()
    assert gap_fillers(_generating_at(1, 3), {2: 511}) == (Chunk(2, 511, 1, False),)
    assert gap_fillers(_generating_at(1, 3), {2: 512}) == ()
    assert gap_fillers(_generating_at(1, 3, n_cached=511), {2: 511}) == (Chunk(2, 511, 1, False),)
    assert gap_fillers(_generating_at(1, 3, n_cached=512), {2: 512}) == (Chunk(2, 512, 1, False),)


@given(_SEQUENCES, st.dictionaries(st.integers(0, 14), st.integers(0, 600)))
def test_fillers_stand_between_streams_that_run(sequences: list[Pending], held: dict[int, int]) -> None:
    busy = {one.slot for one in sequences}
    batch = generating_batch(sequences)
    if not batch:
        return
    fillers = gap_fillers(batch, {slot: n_held for slot, n_held in held.items() if slot not in busy})
    assert not {one.slot for one in fillers} & busy
    assert all(batch[0].slot < one.slot < batch[-1].slot and one.first == held[one.slot] for one in fillers)
