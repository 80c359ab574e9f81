"""How likely the model found a token, and which others: from logits to `TokenLogprob`. Pure but for the vocabulary.

The probabilities are the softmax over the whole vocabulary, before biases, penalties and samplers change it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qwenctl.core import TokenChance, TokenLogprob


def token_logprob(
    logits: npt.NDArray[np.float32], token: int, n_likeliest: int, text_of: Callable[[int], str]
) -> TokenLogprob:
    """Return the chance of `token` and of the `n_likeliest` likeliest ones, best first.

    Args:
        logits: f32 (n_vocab,), finite or -inf.
        token: which one was generated.
        n_likeliest: 0 or more; all tokens of the vocabulary at most.
        text_of: how the vocabulary writes a token.
    """
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))

    def chance(one: int) -> TokenChance:
        return TokenChance(one, text_of(one), float(logits[one]) - total)

    return TokenLogprob(chance(token), tuple(map(chance, _largest(logits, n_likeliest))))


def _largest(logits: npt.NDArray[np.float32], n_wanted: int) -> list[int]:
    """Return the indexes of the largest values, largest first; of equal ones the lower index first."""
    n_wanted = min(n_wanted, len(logits))
    if n_wanted == 0:
        return []
    candidates = np.argpartition(logits, -n_wanted)[-n_wanted:]
    return [int(one) for one in candidates[np.lexsort((candidates, -logits[candidates]))]]
