"""How good models are on a text: perplexity, and divergence from a reference, by llama-perplexity's method.

    text → chunks (evaluation_text.py) → a plan (evaluation_plan.py) → open models (evaluation_models.py)
         → logits of the second half of each chunk (logits.py), in the order of the plan (evaluation_run.py)
         → three numbers a position (evaluation_scores.py) → figures

The reference's logits are computed on the way and never written anywhere. Memory is bounded by the plan: models, a
batch's logits of each, and, where the models do not fit together, the reference's predictions of some chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quant.divergence import Divergence
from quant.estimates import Estimate
from quant.perplexity import LEAST_N_CTX, Chunks, ProbabilityChange, perplexity, perplexity_ratio
from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.evaluation_memory import evaluation_memory
from qwenctl.services.evaluation_models import ModelDesk, ModelFile, check_same_vocabulary, on_native_thread, read_model
from qwenctl.services.evaluation_plan import EvaluationPlan, model_needs, plan_evaluation
from qwenctl.services.evaluation_run import EvaluationRun, OnProgress, Subject
from qwenctl.services.evaluation_scores import RowWorkers, Scores
from qwenctl.services.evaluation_text import EvaluationText, chunks_of
from qwenctl.units import format_bytes

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What a user may decide about an evaluation.

    Raises:
        InvalidRequest: a value is out of range.
    """

    n_ctx: int = 512  # tokens of a chunk
    most_chunks: int | None = None  # None: the whole text
    n_threads: int | None = None  # None: one a physical core
    parse_special: bool = False
    offload: OffloadOptions = field(default_factory=OffloadOptions)

    def __post_init__(self) -> None:
        if self.n_ctx < LEAST_N_CTX:
            raise InvalidRequest(f"a chunk takes at least {LEAST_N_CTX} tokens, not {self.n_ctx}")


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens: progress, notes, warnings."""

    on_progress: OnProgress = lambda _progress: None
    note: Tell = lambda _text: None
    warn: Tell = lambda _text: None


@dataclass(frozen=True, slots=True)
class PerplexityRow:
    """A model's perplexity over `n_tokens` scored tokens in `n_chunks` chunks."""

    model: ModelFile
    n_chunks: int
    n_tokens: int
    perplexity: Estimate


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """How far a model is from the reference."""

    model: ModelFile
    divergence: Divergence
    perplexity: Estimate
    perplexity_ratio: Estimate  # to the reference's
    probability_change: ProbabilityChange  # of the tokens that followed


@dataclass(frozen=True, slots=True)
class DivergenceReport:
    """Models against a reference."""

    reference: PerplexityRow
    rows: tuple[DivergenceRow, ...]
    n_rounds: int  # how often each model was opened


def evaluate_perplexity(
    path: Path, text: EvaluationText, options: EvaluationOptions, listener: Listener
) -> PerplexityRow:
    """Return a model's perplexity; the text is cut by its own vocabulary.

    Args:
        path: a GGUF file that is known to load (load_trial.py).
        text: what it is to predict.
        options: how.
        listener: is told.

    Raises:
        InvalidRequest: the text is shorter than a chunk; the file has no vocabulary.
        ModelLoadFailed, DoesNotFit, ExpertReadFailed: the model cannot be opened.
        GenerationFailed: llama.cpp failed, or gave NaN.
    """
    model = read_model(path)
    chunks = _chunks(model, text, options, listener)
    plan = _plan((model,), chunks, options)
    subject = Subject(path, _offload(options, fits=plan.fits[0]), Scores(chunks.n_scored))
    with _desk(chunks, plan, options, listener) as desk, RowWorkers(_n_threads(options)) as workers:
        EvaluationRun(chunks, plan, desk, workers, listener.on_progress).score(subject)
    return _perplexity_row(model, chunks, subject.scores)


def evaluate_divergence(
    paths: Sequence[Path], reference: Path, text: EvaluationText, options: EvaluationOptions, listener: Listener
) -> DivergenceReport:
    """Return how far each model's predictions are from the reference's; the text is cut by the reference's vocabulary.

    Args:
        paths: GGUF files that are known to load (load_trial.py).
        reference: another one.
        text: what they are to predict.
        options: how.
        listener: is told.

    Raises:
        InvalidRequest: the text is shorter than a chunk; vocabularies differ.
        ModelLoadFailed, DoesNotFit, ExpertReadFailed: a model cannot be opened.
        GenerationFailed: llama.cpp failed, or gave NaN.
    """
    models = [read_model(path) for path in (reference, *paths)]
    for model in models[1:]:
        check_same_vocabulary(model, models[0])
    chunks = _chunks(models[0], text, options, listener)
    plan = _plan(models, chunks, options)
    subjects = [
        Subject(model.path, _offload(options, fits=fits), Scores(chunks.n_scored))
        for model, fits in zip(models, plan.fits, strict=True)
    ]
    if not plan.keeps_all:
        listener.note(_in_turns(chunks, plan, len(models[0].tokens)))
    with _desk(chunks, plan, options, listener) as desk, RowWorkers(_n_threads(options)) as workers:
        run = EvaluationRun(chunks, plan, desk, workers, listener.on_progress)
        run.compare(subjects[1:], subjects[0], len(models[0].tokens))
    base = subjects[0].scores
    rows = [_divergence_row(model, one.scores, base) for model, one in zip(models[1:], subjects[1:], strict=True)]
    return DivergenceReport(_perplexity_row(models[0], chunks, base), tuple(rows), plan.n_rounds(chunks.n_chunks))


def _chunks(model: ModelFile, text: EvaluationText, options: EvaluationOptions, listener: Listener) -> Chunks:
    def cut() -> Chunks:
        return chunks_of(text, model.path, options.n_ctx, options.most_chunks, parse_special=options.parse_special)

    chunks = on_native_thread(cut)
    if model.n_ctx_train is not None and options.n_ctx > model.n_ctx_train:
        listener.warn(f"{model.path} was trained on {model.n_ctx_train:,} tokens at a time, not {options.n_ctx:,}")
    if options.most_chunks is not None and chunks.n_chunks < options.most_chunks:
        listener.warn(f"{text.name} has {chunks.n_chunks} chunks of {options.n_ctx} tokens, not {options.most_chunks}")
    return chunks


def _plan(models: Sequence[ModelFile], chunks: Chunks, options: EvaluationOptions) -> EvaluationPlan:
    offload = options.offload
    return plan_evaluation(
        [model_needs(model.shape, model.n_bytes, chunks.n_ctx) for model in models],
        evaluation_memory(offload.ram_bytes, offload.vram_bytes),
        offload.mode,
        n_vocab=max(len(model.tokens) for model in models),
        n_ctx=chunks.n_ctx,
        n_chunks=chunks.n_chunks,
    )


def _offload(options: EvaluationOptions, *, fits: bool) -> OffloadOptions:
    """Return how a model is opened: what fits is computed by llama.cpp as it comes, so that figures compare."""
    wanted = options.offload
    return OffloadOptions("off") if wanted.mode == "off" or (wanted.mode == "auto" and fits) else wanted


def _desk(chunks: Chunks, plan: EvaluationPlan, options: EvaluationOptions, listener: Listener) -> ModelDesk:
    engine = EngineOptions(
        n_ctx=chunks.n_ctx,
        n_parallel=plan.n_sequences,
        n_threads=options.n_threads,
        n_batch=plan.n_batch,
        n_outputs=plan.n_outputs,
    )
    return ModelDesk(engine, keeps_all=plan.keeps_all, warn=listener.warn)


def _n_threads(options: EvaluationOptions) -> int:
    return options.n_threads or default_n_threads()


def _in_turns(chunks: Chunks, plan: EvaluationPlan, n_vocab: int) -> str:
    n_bytes = 2 * n_vocab * plan.n_round_chunks * (chunks.n_scored // chunks.n_chunks)
    n_rounds = plan.n_rounds(chunks.n_chunks)
    often = "once" if n_rounds == 1 else f"{n_rounds} times"
    kept = f"the reference's predictions of {plan.n_round_chunks:,} chunks are kept meanwhile ({format_bytes(n_bytes)})"
    return f"one model in memory at a time, each opened {often}; {kept}"


def _perplexity_row(model: ModelFile, chunks: Chunks, scores: Scores) -> PerplexityRow:
    return PerplexityRow(model, chunks.n_chunks, chunks.n_scored, perplexity(scores.surprise))


def _divergence_row(model: ModelFile, scores: Scores, base: Scores) -> DivergenceRow:
    return DivergenceRow(
        model=model,
        divergence=Divergence.of(scores.divergence, scores.same_top),
        perplexity=perplexity(scores.surprise),
        perplexity_ratio=perplexity_ratio(scores.surprise, base.surprise),
        probability_change=ProbabilityChange.of(scores.surprise, base.surprise),
    )
