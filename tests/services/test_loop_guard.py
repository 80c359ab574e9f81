from __future__ import annotations

import random
from pathlib import Path

import pytest

from qwenctl.services.loop_guard import WINDOW_TOKENS, repeats_endlessly

DATA = Path(__file__).resolve().parents[2]


def words(text: str) -> list[int]:
    """A number for each word and mark, as a tokenizer would give: the same for the same."""
    known: dict[str, int] = {}
    return [known.setdefault(word, len(known)) for word in text.split()]


def random_tokens(n_tokens: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(150_000) for _ in range(n_tokens)]


@pytest.mark.parametrize("period", [1, 2, 7, 8, 9, 40, 199, 500, 1000])
def test_a_passage_written_again_and_again_is_a_loop(period: int) -> None:
    passage = random_tokens(period, seed=period)
    n_repeats = max(4, -(-200 // period))
    before = random_tokens(300)
    assert repeats_endlessly(before + passage * n_repeats)
    assert not repeats_endlessly(before + passage * 3) or period < 67


def test_a_loop_is_seen_wherever_in_its_passage_one_looks() -> None:
    passage = random_tokens(50)
    for cut in range(50):
        assert repeats_endlessly(random_tokens(100, 1) + passage * 6 + passage[:cut])


def test_a_loop_that_ended_is_none() -> None:
    assert not repeats_endlessly(random_tokens(40) * 10 + random_tokens(100, seed=2))


def test_a_loop_seldom_interrupted_is_one_and_often_interrupted_none() -> None:
    sentence = random_tokens(24)
    nearly = [token for number in range(80) for token in (*sentence, 1_000_000 + number)]
    assert repeats_endlessly(nearly)
    assert not repeats_endlessly(nearly[: 25 * 20])  # too early to tell
    half = [token for number in range(80) for token in (*sentence[:12], *random_tokens(3, number))]
    assert not repeats_endlessly(half)


@pytest.mark.parametrize("name", ["README.md", "qwenctl/demo/README.md", "qwenctl/services/engine.py"])
def test_prose_tables_and_code_are_none(name: str) -> None:
    text = words((DATA / name).read_text(encoding="utf-8"))
    assert not any(repeats_endlessly(text[:end]) for end in range(64, len(text), 64))


def test_a_counting_table_is_none() -> None:
    """Each line like the last one but for its numbers: what a model writes when it tries out one case after another."""
    lines = [f"case {n} : {n} * {n} = {n * n} , which is not {n + 7} ; next" for n in range(300)]
    text = words("\n".join(lines))
    assert not any(repeats_endlessly(text[:end]) for end in range(64, len(text), 64))


def test_short_and_long_texts() -> None:
    assert not repeats_endlessly([])
    assert not repeats_endlessly([5] * 199)
    assert repeats_endlessly([5] * 200)
    assert not repeats_endlessly(random_tokens(3 * WINDOW_TOKENS))
