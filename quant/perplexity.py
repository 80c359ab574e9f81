"""Perplexity by the method of llama-perplexity: which tokens are predicted from which, and what comes of it. Pure.

    text      tokenized once, cut into chunks of n_ctx tokens; what is left over at the end is dropped
    chunk     computed alone, from an empty context; its first token is replaced by the begin token where the
              vocabulary asks for one
    scored    positions n_ctx / 2 … n_ctx - 2: each predicts the token after it, and has half a chunk to go by at least

Source: tools/perplexity/perplexity.cpp of llama.cpp 0c1e57098, whose figure for the demo in F32 is this one to seven
digits. Surprise is -ln p of the token that follows, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quant.estimates import Estimate, mean_of

FloatArray = npt.NDArray[np.floating]
LEAST_N_CTX = 4  # below it nothing, or one position alone, would be scored


def first_scored(n_ctx: int) -> int:
    """Return the first position of a chunk that is scored."""
    return n_ctx // 2


def n_scored(n_ctx: int) -> int:
    """Return how many positions of a chunk are scored: all from the first on but the last."""
    return n_ctx - 1 - first_scored(n_ctx)


@dataclass(frozen=True, slots=True)
class Chunks:
    """A text's tokens in chunks.

    Raises:
        ValueError: no chunk, or chunks that are too short to score anything.
    """

    tokens: npt.NDArray[np.int32]  # (n_chunks, n_ctx), as the text has them
    begin_token: int | None  # computed in place of each chunk's first token

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or not len(self.tokens) or self.n_ctx < LEAST_N_CTX:
            raise ValueError(f"chunks of shape {self.tokens.shape}")

    @property
    def n_chunks(self) -> int:
        """Chunks."""
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """Tokens of a chunk."""
        return int(self.tokens.shape[1])

    @property
    def n_scored(self) -> int:
        """Positions scored in all chunks."""
        return self.n_chunks * n_scored(self.n_ctx)

    def inputs(self) -> npt.NDArray[np.int32]:
        """Return what is computed, (n_chunks, n_ctx)."""
        inputs = self.tokens.copy()
        if self.begin_token is not None:
            inputs[:, 0] = self.begin_token
        return inputs

    def targets(self, chunk: int) -> npt.NDArray[np.int32]:
        """Return the tokens that a chunk's scored positions predict, (n_scored,)."""
        return self.tokens[chunk, first_scored(self.n_ctx) + 1 :]


def cut_chunks(
    tokens: npt.NDArray[np.int32], n_ctx: int, begin_token: int | None = None, most_chunks: int | None = None
) -> Chunks:
    """Return the first `most_chunks` chunks of `tokens` (n_tokens,); None: all.

    Raises:
        ValueError: fewer tokens than one chunk takes.
    """
    n_chunks = len(tokens) // n_ctx
    if most_chunks is not None:
        n_chunks = min(n_chunks, most_chunks)
    return Chunks(tokens[: n_chunks * n_ctx].reshape(n_chunks, n_ctx), begin_token)


def perplexity(surprise: FloatArray) -> Estimate:
    """Return exp of the mean surprise (n_tokens,)."""
    return mean_of(surprise).exp()


def perplexity_ratio(surprise: FloatArray, reference: FloatArray) -> Estimate:
    """Return PPL / PPL of the reference over the same tokens, (n_tokens,) each.

    Its error is that of the mean difference: var(x - y) = var x + var y - 2 cov(x, y), as in llama-perplexity. It is
    much smaller than the errors of both, since both find the same tokens hard.
    """
    return mean_of(surprise.astype(np.float64) - reference).exp()


@dataclass(frozen=True, slots=True)
class ProbabilityChange:
    """How the probability of the token that does follow differs from the reference's: p - p_reference, 1 is 100 %."""

    mean: Estimate
    rms: Estimate  # root of the mean square

    @classmethod
    def of(cls, surprise: FloatArray, reference: FloatArray) -> ProbabilityChange:
        """Return the change from the surprise of the same tokens, (n_tokens,) each."""
        change = np.exp(-surprise.astype(np.float64)) - np.exp(-reference.astype(np.float64))
        return cls(mean_of(change), mean_of(change * change).root())
