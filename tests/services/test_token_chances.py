from __future__ import annotations

import numpy as np
import pytest

from qwenctl.services.token_chances import token_logprob


def test_chances_are_the_softmax_of_all_logits() -> None:
    logits = np.array([0.0, 3.0, -np.inf, 3.0, 1.0], np.float32)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    entry = token_logprob(logits, 4, 3, str)
    assert (entry.chosen.token, entry.chosen.text) == (4, "4")
    assert entry.chosen.logprob == pytest.approx(expected[4])
    assert [one.token for one in entry.likeliest] == [1, 3, 4]
    assert [one.logprob for one in entry.likeliest] == pytest.approx(expected[[1, 3, 4]])


def test_large_logits_do_not_overflow() -> None:
    entry = token_logprob(np.array([5000.0, -5000.0], np.float32), 0, 2, str)
    assert [one.logprob for one in entry.likeliest] == pytest.approx([0.0, -10_000.0])


def test_no_more_than_there_are_and_none() -> None:
    logits = np.array([1.0, 2.0], np.float32)
    assert len(token_logprob(logits, 0, 9, str).likeliest) == 2
    assert token_logprob(logits, 0, 0, str).likeliest == ()
