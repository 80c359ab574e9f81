"""Evaluation from a text to figures: against scores worked out here one by one, at once and in turns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services import evaluation
from qwenctl.services.conversion import convert
from qwenctl.services.evaluation import EvaluationOptions, Listener, evaluate_divergence, evaluate_perplexity
from qwenctl.services.evaluation_plan import EvaluationPlan, plan_evaluation
from qwenctl.services.evaluation_run import EvaluationProgress
from qwenctl.services.evaluation_text import EvaluationText, shipped_text
from qwenctl.services.logits import sequence_logits
from tests.tiny_gguf import ARRAY, BOOL, STRING, TinyGguf, tokens

N_CTX = 64
OPTIONS = EvaluationOptions(n_ctx=N_CTX, n_threads=1, offload=OffloadOptions("off"))
TEXT = EvaluationText("a text", "The quick brown fox jumps over 13 lazy dogs; nobody knows why. " * 6 + "End")


def tiny_model(noise: float = 0.0) -> TinyGguf:
    """Return a model that prefers some tokens to others, its weights shaken by `noise`."""
    model = TinyGguf.of("qwen3moe")
    random, shaking = np.random.default_rng(1), np.random.default_rng(2)
    for name, tensor in model.tensors.items():
        weights = np.ones(tensor.shape) if name.endswith("norm.weight") else 0.1 * random.standard_normal(tensor.shape)
        tensor.data = (weights + noise * shaking.standard_normal(tensor.shape)).astype("<f4").tobytes()
    return model


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().write(tmp_path_factory.mktemp("one") / "one.gguf")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(0.01).write(tmp_path_factory.mktemp("two") / "two.gguf")


def ids_of(text: str) -> list[int]:
    """Return the tokens of plain ASCII: one a byte, without merges."""
    symbols = tokens()
    return [symbols.index("Ġ" if char == " " else char) for char in text]


def chunk_scores(path: Path, ids: np.ndarray) -> np.ndarray:
    """Return log-probabilities f64 (n_chunks, n_ctx, n_vocab)."""
    logits = np.stack(list(sequence_logits(path, ids, n_threads=1))).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def naive(path: Path, reference: Path, ids: np.ndarray, inputs: np.ndarray) -> dict[str, float]:
    """Return figures as llama-perplexity's loops would."""
    ours, base = chunk_scores(path, inputs), chunk_scores(reference, inputs)
    losses, base_losses, divergences, same = [], [], [], []
    for chunk in range(len(ids)):
        for position in range(N_CTX // 2, N_CTX - 1):
            q, p, follows = ours[chunk, position], base[chunk, position], ids[chunk, position + 1]
            losses.append(-q[follows])
            base_losses.append(-p[follows])
            divergences.append((np.exp(p) * (p - q)).sum())
            same.append(q.argmax() == p.argmax())
    return {
        "n": len(losses),
        "ppl": math.exp(np.mean(losses)),
        "base": math.exp(np.mean(base_losses)),
        "kld": float(np.mean(divergences)),
        "maximum": float(np.max(divergences)),
        "same": float(np.mean(same)),
    }


def chunked(text: str) -> np.ndarray:
    ids = ids_of(text)
    n_chunks = len(ids) // N_CTX
    return np.array(ids[: n_chunks * N_CTX], np.int32).reshape(n_chunks, N_CTX)


def in_turns(monkeypatch: pytest.MonkeyPatch, n_round_chunks: int, n_sequences: int, n_rows: int) -> None:
    """Let every plan open one model at a time, and compute chunks in pieces of `n_rows` scored positions."""

    def planned(*args: object, **kwargs: object) -> EvaluationPlan:
        plan = plan_evaluation(*args, **kwargs)
        return replace(
            plan,
            keeps_all=False,
            n_round_chunks=n_round_chunks,
            n_sequences=n_sequences,
            n_rows=n_rows,
            n_batch=n_sequences * plan.n_batch,
        )

    monkeypatch.setattr(evaluation, "plan_evaluation", planned)


def test_perplexity_is_that_of_the_second_halves(one: Path) -> None:
    ids = chunked(TEXT.text)
    expected = naive(one, one, ids, ids)
    row = evaluate_perplexity(one, TEXT, OPTIONS, Listener())
    assert (row.n_chunks, row.n_tokens) == (len(ids), expected["n"]) == (5, 5 * 31)
    assert row.perplexity.value == pytest.approx(expected["ppl"], rel=1e-5)
    assert 0 < row.perplexity.error < row.perplexity.value


def test_divergence_is_that_of_the_second_halves(one: Path, two: Path) -> None:
    ids = chunked(TEXT.text)
    expected = naive(two, one, ids, ids)
    report = evaluate_divergence([two, one], one, TEXT, OPTIONS, Listener())
    row, itself = report.rows
    assert row.divergence.mean == pytest.approx(expected["kld"], rel=1e-4)
    assert row.divergence.maximum == pytest.approx(expected["maximum"], rel=1e-4)
    assert row.divergence.same_top == pytest.approx(expected["same"])
    assert row.perplexity.value == pytest.approx(expected["ppl"], rel=1e-5)
    assert report.reference.perplexity.value == pytest.approx(expected["base"], rel=1e-5)
    assert row.perplexity_ratio.value == pytest.approx(expected["ppl"] / expected["base"], rel=1e-5)
    assert row.divergence.mean > 0.01
    assert 0.2 < row.divergence.same_top < 0.99
    assert (itself.divergence.mean, itself.divergence.maximum, itself.divergence.same_top) == (0.0, 0.0, 1.0)
    assert itself.perplexity_ratio.value == 1.0


@pytest.mark.parametrize(
    ("n_round_chunks", "n_sequences", "n_rows"), [(5, 1, 32), (2, 1, 9), (2, 2, 32), (4, 3, 32), (4, 3, 7)]
)
def test_in_turns_the_figures_are_the_same(
    one: Path, two: Path, monkeypatch: pytest.MonkeyPatch, n_round_chunks: int, n_sequences: int, n_rows: int
) -> None:
    at_once = evaluate_divergence([two, one], one, TEXT, OPTIONS, Listener())
    in_turns(monkeypatch, n_round_chunks, n_sequences, n_rows)
    notes: list[str] = []
    report = evaluate_divergence([two, one], one, TEXT, OPTIONS, Listener(note=notes.append))
    assert report.n_rounds == -(-5 // n_round_chunks)
    assert "one model in memory at a time" in notes[0]
    for found, expected in zip(report.rows, at_once.rows, strict=True):
        assert found.divergence.mean == pytest.approx(expected.divergence.mean, rel=1e-4, abs=1e-7)
        assert found.divergence.maximum == pytest.approx(expected.divergence.maximum, rel=1e-3, abs=1e-6)
        assert found.divergence.same_top == expected.divergence.same_top
        assert found.perplexity_ratio.value == pytest.approx(expected.perplexity_ratio.value, rel=1e-6)


def test_only_the_first_chunks(one: Path) -> None:
    ids = chunked(TEXT.text)[:2]
    row = evaluate_perplexity(one, TEXT, replace(OPTIONS, most_chunks=2), Listener())
    assert row.n_chunks == 2
    assert row.perplexity.value == pytest.approx(naive(one, one, ids, ids)["ppl"], rel=1e-5)


def test_more_chunks_than_there_are(one: Path) -> None:
    warnings: list[str] = []
    assert evaluate_perplexity(one, TEXT, replace(OPTIONS, most_chunks=9), Listener(warn=warnings.append)).n_chunks == 5
    assert warnings == ["a text has 5 chunks of 64 tokens, not 9"]


def test_a_begin_token_goes_before_the_text_and_into_every_chunk(tmp_path: Path) -> None:
    model = tiny_model()
    model.pairs["tokenizer.ggml.add_bos_token"] = (BOOL, 1)
    path = model.write(tmp_path / "begins.gguf")
    begin = tokens().index("<|endoftext|>")
    ids = np.array([begin, *ids_of(TEXT.text)][: 5 * N_CTX], np.int32).reshape(5, N_CTX)
    inputs = ids.copy()
    inputs[:, 0] = begin
    row = evaluate_perplexity(path, TEXT, OPTIONS, Listener())
    assert row.perplexity.value == pytest.approx(naive(path, path, ids, inputs)["ppl"], rel=1e-5)
    assert row.perplexity.value != pytest.approx(naive(path, path, ids, ids)["ppl"], rel=1e-5)


def test_special_tokens_are_text_unless_asked_for(one: Path) -> None:
    text = EvaluationText("a chat", "<|im_start|>Hi<|im_end|>" * 10)
    plain = evaluate_perplexity(one, text, replace(OPTIONS, n_ctx=16), Listener())
    special = evaluate_perplexity(one, text, replace(OPTIONS, n_ctx=16, parse_special=True), Listener())
    assert plain.n_chunks == len(text.text) // 16 == 15
    assert special.n_chunks == 10 * 4 // 16 == 2


def test_progress_counts_chunks_times_models(one: Path, two: Path) -> None:
    seen: list[EvaluationProgress] = []
    evaluate_divergence([two], one, TEXT, OPTIONS, Listener(on_progress=seen.append))
    assert [progress.n_done for progress in seen] == [2, 4, 6, 8, 10]
    assert {progress.n_total for progress in seen} == {10}
    assert seen[-1].mean_divergence > 0


def test_a_short_text_is_refused_with_both_numbers(one: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"a word is too short: 4 tokens, and one chunk takes 64"):
        evaluate_perplexity(one, EvaluationText("a word", "word"), OPTIONS, Listener())


def test_a_chunk_that_could_score_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least 4 tokens, not 3"):
        EvaluationOptions(n_ctx=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda symbols: [*symbols[:7], "x y", *symbols[8:]], r"token 7 is 'x y' in one, '\(' in the other"),
        (lambda symbols: [*symbols, "<|more|>"], "260 and 259 tokens"),
    ],
)
def test_another_vocabulary_is_refused(one: Path, tmp_path: Path, change: object, said: str) -> None:
    model = TinyGguf.of("qwen3moe")
    symbols = change(tokens())
    model.pairs["tokenizer.ggml.tokens"] = (ARRAY, (STRING, symbols))
    with pytest.raises(InvalidRequest, match=said):
        evaluate_divergence([model.write(tmp_path / "other.gguf")], one, TEXT, OPTIONS, Listener())


def test_nan_among_the_logits_is_an_error_that_says_where(one: Path, tmp_path: Path) -> None:
    model = tiny_model()
    model.tensors["output_norm.weight"].data = np.full(64, np.nan, "<f4").tobytes()
    path = model.write(tmp_path / "nan.gguf")
    with pytest.raises(GenerationFailed, match=r"nan\.gguf: NaN or infinity among the logits at token 32 of chunk 1"):
        evaluate_divergence([path], one, TEXT, OPTIONS, Listener())


def test_a_context_beyond_the_training_is_warned_about(one: Path) -> None:
    warnings: list[str] = []
    evaluate_perplexity(one, TEXT, replace(OPTIONS, n_ctx=256), Listener(warn=warnings.append))
    assert "trained on 128 tokens at a time, not 256" in warnings[0]


@pytest.fixture(scope="module")
def demo_f32(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo-f32.gguf"
    convert(demo_folder, out, "f32")
    return out


def test_the_demo_against_its_f32(demo_f32: Path, demo_gguf: Path) -> None:
    options = EvaluationOptions(most_chunks=2, n_threads=1)
    report = evaluate_divergence([demo_f32, demo_gguf], demo_f32, shipped_text(), options, Listener())
    itself, quantized = report.rows
    assert (itself.divergence.mean, itself.divergence.same_top) == (0.0, 1.0)
    assert 1e-3 < quantized.divergence.mean < 5e-2
    assert 0.8 < quantized.divergence.same_top < 1.0
    assert quantized.divergence.median < quantized.divergence.percentile_99 <= quantized.divergence.percentile_99_9
    assert abs(quantized.perplexity_ratio.value - 1) < 0.1
    assert quantized.model.bits_per_weight == pytest.approx(4.96, abs=0.05)
    assert report.reference.model.bits_per_weight == 32.0


def test_offloaded_experts_give_the_same_figures(demo_f32: Path, demo_gguf: Path) -> None:
    """But for flash attention, which they choose by another rule. Both chunks are computed at once."""
    options = EvaluationOptions(n_ctx=128, most_chunks=2, n_threads=1)
    expected = evaluate_divergence([demo_gguf], demo_f32, shipped_text(), options, Listener())
    offload = OffloadOptions("on", layout="plain", operation="id", n_slots=8)
    report = evaluate_divergence([demo_gguf], demo_f32, shipped_text(), replace(options, offload=offload), Listener())
    found, wanted = report.rows[0], expected.rows[0]
    assert found.divergence.mean == pytest.approx(wanted.divergence.mean, rel=0.02)
    assert found.perplexity.value == pytest.approx(wanted.perplexity.value, rel=1e-3)


def test_the_shipped_text_is_long_enough_for_the_demo(demo_gguf: Path) -> None:
    assert len(shipped_text().text) > 20_000
    assert shipped_text().name == "the built-in text"


@pytest.mark.slow
def test_the_figure_is_that_of_llama_perplexity(demo_f32: Path) -> None:
    """llama-perplexity of llama.cpp 0c1e57098, -c 512 -fa off, says of this file and text: 179.6409 +/- 5.94787."""
    row = evaluate_perplexity(demo_f32, shipped_text(), EvaluationOptions(n_threads=1), Listener())
    assert row.n_chunks == 27
    assert row.perplexity.value == pytest.approx(179.6409, rel=2e-5)
    assert row.perplexity.error == pytest.approx(5.94787, rel=1e-4)
