"""Prompts that no cache knows, percentiles, the speed of a model that is known, and a picture of it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from qwenctl.services.bench.bench_prompts import questions, text_of_tokens
from qwenctl.services.bench.http_load import Answered
from qwenctl.services.bench.line_plot import Panel, nice_step, svg
from qwenctl.services.bench.load_summary import load_row, percentiles
from qwenctl.services.bench.model_speed import measure_model
from qwenctl.services.generation import ChatModel
from tests.scripted_engine import ScriptedEngine


def test_questions_are_the_same_for_a_seed_and_differ_soon() -> None:
    assert questions(5, 1) == questions(5, 1)
    many = questions(200, 1) + questions(200, 2)
    assert len({text[:14] for text in many}) > 390


@pytest.mark.parametrize("wanted", [1, 50, 1000])
def test_a_text_of_so_many_tokens(wanted: int) -> None:
    n_words = len(text_of_tokens(wanted, lambda text: len(text.split()), 3).split())
    assert wanted <= n_words <= wanted + 40


def test_percentiles_are_values_that_occurred() -> None:
    assert percentiles([]) is None
    assert percentiles([3.0]) == (3.0, 3.0, 3.0)
    assert percentiles([float(n) for n in range(100, 0, -1)]) == (50.0, 95.0, 99.0)


def test_the_row_of_a_load() -> None:
    good = [Answered(0.0, 4.0, (1.0, 1.5, 3.0), 10, 5), Answered(1.0, 3.0, (2.5,), 20, 7)]
    row = load_row(2, [*good, Answered(0.0, 1.0, (), 0, 0, "broken")], 4.0)
    assert (row.n_requests, row.n_failed, row.n_prompt_tokens, row.n_generated_tokens) == (3, 1, 30, 12)
    assert (row.tokens_per_s, row.requests_per_s, row.error) == (3.0, 0.5, "broken")
    assert row.first_text_s == (1.0, 1.5, 1.5)
    assert row.gap_s == (0.5, 1.5, 1.5)


def test_the_speed_of_an_engine_whose_clock_is_known() -> None:
    engine = ScriptedEngine(answer=lambda _: list("0123456789"))  # prefill 0.1 s, decode 0.2 s, always
    n_requests = 0

    def count() -> None:
        nonlocal n_requests
        n_requests += 1

    rows = measure_model(ChatModel(engine), (100, 300), 6, 3, count)
    assert n_requests == 6
    for row, wanted in zip(rows, (100, 300), strict=True):
        assert wanted <= row.n_prompt_tokens <= wanted + 120
        assert (row.n_generated_tokens, row.first_token_s) == (6, 0.1)
        assert row.prefill_tokens_per_s == pytest.approx(row.n_prompt_tokens / 0.1, rel=0.2)
        assert row.decode_tokens_per_s == pytest.approx(5 / 0.2)
    assert len(set(engine.prompts[1:])) == len(engine.prompts[1:])


def test_no_prompt_begins_as_another_one_does() -> None:
    engine = ScriptedEngine(answer=lambda _: list("0123456789"))
    measure_model(ChatModel(engine), (100, 1100, 2100), 2, 3)
    beginnings = [prompt.partition("Number ")[2][:6] for prompt in engine.prompts]
    assert len(set(beginnings)) == len(beginnings)


def test_a_picture_is_well_formed_and_its_points_lie_where_they_should() -> None:
    panel = Panel("a < b & c", "requests", (1.0, 2.0, 4.0), (("one", (0.0, 50.0, 100.0)), ("two", (None, 25.0, None))))
    root = ElementTree.fromstring(svg([panel, panel], "caption"))
    names = {"s": "http://www.w3.org/2000/svg"}
    assert [text.text for text in root.findall("s:text", names)].count("a < b & c") == 2
    circles = root.findall("s:circle", names)
    assert len(circles) == 2 * 4
    xs = [float(circle.get("cx", "")) for circle in circles[:3]]
    ys = [float(circle.get("cy", "")) for circle in circles[:3]]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)
    assert ys[0] > ys[2]


@pytest.mark.parametrize(("highest", "step"), [(100, 50), (99, 50), (7, 2), (0.03, 0.01), (1, 0.5), (0, 5e-13)])
def test_steps_are_round(highest: float, step: float) -> None:
    assert nice_step(highest) == pytest.approx(step)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Panel("t", "x", (0.0,), ())
    with pytest.raises(ValueError, match="a value a place"):
        Panel("t", "x", (1.0, 2.0), (("one", (1.0,)),))
