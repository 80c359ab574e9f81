"""Logits of several sequences at once and piece by piece: the same as of each alone, in the right places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import GenerationFailed
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.abort_flag import AbortFlag
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.logits import LogitsModel, cut_pieces, sequence_logits
from qwenctl.services.native_model import NativeModel
from qwenctl.services.native_thread import NativeThread
from tests.tiny_gguf import TinyGguf, tokens

N_CTX = 48


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyGguf.of("qwen3moe").write(tmp_path_factory.mktemp("tiny") / "m.gguf")


@pytest.fixture(scope="module")
def sequences() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, N_CTX)).astype(np.int32)


@contextmanager
def opened(path: Path, n_parallel: int, n_outputs: int, n_batch: int = 2048) -> Iterator[LogitsModel]:
    options = EngineOptions(
        n_ctx=N_CTX,
        n_parallel=n_parallel,
        n_threads=1,
        n_batch=n_batch,
        n_outputs=n_outputs,
        offload=OffloadOptions("off"),
    )
    abort = AbortFlag()
    with (
        closing(NativeThread("test", abort.set)) as thread,
        closing(thread.run(lambda: NativeModel(path, options, abort))) as model,
    ):
        yield LogitsModel(model, thread, options)


def gathered(model: LogitsModel, sequences: np.ndarray, first: int) -> np.ndarray:
    """Return f32 (n_sequences, n_tokens - first, n_vocab), every position exactly once."""
    out = np.full((len(sequences), N_CTX - first, model.n_vocab), np.nan, np.float32)
    for block in model.compute(sequences, first):
        place = out[block.sequence, block.first - first : block.first - first + len(block.logits)]
        assert np.isnan(place).all()
        place[:] = block.logits
    return out


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 70), st.integers(1, 70))
def test_pieces_cover_everything_within_their_limits(n_tokens: int, first: int, most: int, most_scored: int) -> None:
    pieces = cut_pieces(n_tokens, first, most, most_scored)
    assert [position for piece in pieces for position in range(piece.first, piece.end)] == list(range(n_tokens))
    scored = [position for piece in pieces for position in range(piece.scored, piece.end)]
    assert scored == list(range(first, n_tokens))
    for piece in pieces:
        assert piece.first <= piece.scored <= piece.end
        assert piece.end - piece.first <= most
        assert piece.end - piece.scored <= most_scored


def test_pieces_that_hold_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="0 tokens"):
        cut_pieces(8, 4, 0, 1)


def test_at_once_and_one_by_one(tiny: Path, sequences: np.ndarray) -> None:
    alone = np.stack(list(sequence_logits(tiny, sequences, n_threads=1)))
    assert alone.shape == (3, N_CTX, len(tokens()))
    with opened(tiny, n_parallel=3, n_outputs=3 * 24) as model:
        np.testing.assert_array_equal(gathered(model, sequences, 24), alone[:, 24:])
        np.testing.assert_array_equal(gathered(model, sequences[2:], 24), alone[2:, 24:])


@pytest.mark.parametrize(("n_outputs", "n_batch"), [(9, 2048), (150, 30), (4, 21)])
def test_in_pieces(tiny: Path, sequences: np.ndarray, n_outputs: int, n_batch: int) -> None:
    """Kernels add in another order for other numbers of tokens; a token in the wrong place is another matter."""
    alone = np.stack(list(sequence_logits(tiny, sequences, n_threads=1)))
    with opened(tiny, 3, n_outputs, n_batch) as model:
        np.testing.assert_allclose(gathered(model, sequences, 20), alone[:, 20:], atol=1e-4)
        np.testing.assert_allclose(gathered(model, sequences, 0), alone, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_llama_cpps_refusal_is_an_error(tiny: Path, sequences: np.ndarray) -> None:
    bad = sequences[:1].copy()
    bad[0, 7] = 10_000
    with opened(tiny, 1, 24) as model, pytest.raises(GenerationFailed, match="status"):
        list(model.compute(bad, 24))
