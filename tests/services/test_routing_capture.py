"""What a run's trace holds: the experts of every token, and the same answer as without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.core import Finished, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest, QwenctlError
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services import native_model
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.routing_capture import RoutingCapture
from qwenctl.telemetry.routing_steps import RoutingTrace
from qwenctl.telemetry.routing_trace import TraceReader
from tests.tiny_gguf import TinyGguf

GREEDY = SamplingParams(temperature=0)
N_TOKENS = 24
STOCK = OffloadOptions(mode="off")


def answer(
    path: Path, trace: Path | None = None, n_ubatch: int = 512, offload: OffloadOptions = STOCK
) -> tuple[str, int]:
    """Return the greedy answer to a fixed prompt and the prompt's tokens."""
    options = EngineOptions(
        n_ctx=512,
        n_threads=1,
        n_ubatch=n_ubatch,
        n_batch=n_ubatch,
        repack=False,
        flash_attention=False,
        trace_file=str(trace) if trace else None,
        offload=offload,
    )
    with Engine.open(path, options) as engine:
        tokens = engine.tokenize("The river rises in the mountains, and")
        text = ""
        for event in engine.generate(GenerationRequest("a", tokens, GREEDY, N_TOKENS)):
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Finished):
                assert event.usage.n_generated_tokens == N_TOKENS
    return text, len(tokens)


def per_token(trace: RoutingTrace, layer: int) -> list[tuple[int, ...]]:
    return [
        step.ids[at : at + trace.n_used]
        for step in trace.of_layer(layer)
        for at in range(0, len(step.ids), trace.n_used)
    ]


def test_every_token_of_every_layer_is_recorded_and_the_answer_stays_the_same(demo_gguf, tmp_path):
    text, n_prompt_tokens = answer(demo_gguf)
    traced, _ = answer(demo_gguf, tmp_path / "whole.trace")
    assert traced == text
    reader = TraceReader(tmp_path / "whole.trace")
    trace = reader.read()
    assert (reader.header.model, trace.n_layers, trace.n_experts, trace.n_used) == ("Demo", 4, 16, 4)
    assert trace.layers == (0, 1, 2, 3)
    assert trace.steps[0].n_tokens == n_prompt_tokens
    assert {step.n_tokens for step in trace.steps[4:]} == {1}
    assert [step.layer for step in trace.steps] == [0, 1, 2, 3] * N_TOKENS
    # The last token is sampled, not computed; the last layer computes of a prompt only what is asked for.
    assert [len(per_token(trace, layer)) for layer in trace.layers] == [n_prompt_tokens + N_TOKENS - 1] * 3 + [N_TOKENS]
    for layer in trace.layers:
        assert all(len(set(ids)) == trace.n_used for ids in per_token(trace, layer))


def test_the_rows_of_a_batch_are_those_of_its_tokens_alone(demo_gguf, tmp_path):
    """The ids of a batch are a view with gaps: misread, few of them would be those of one token at a time."""
    _, n_prompt_tokens = answer(demo_gguf, tmp_path / "batch.trace")
    answer(demo_gguf, tmp_path / "single.trace", n_ubatch=1)
    batch, single = (TraceReader(tmp_path / name).read() for name in ("batch.trace", "single.trace"))
    assert {step.n_tokens for step in single.steps} == {1}
    for layer in (0, 1, 2):
        pairs = list(zip(per_token(batch, layer), per_token(single, layer), strict=True))[:n_prompt_tokens]
        n_same = sum(len(set(one) & set(other)) for one, other in pairs)
        assert n_same >= 0.9 * batch.n_used * len(pairs)  # rounding may swap the last of a token's experts


@pytest.mark.parametrize("operation", ["expert", "id"])
def test_the_whole_ranking_of_generated_tokens_is_recorded_offloaded_or_not(demo_gguf, tmp_path, operation):
    stock, _ = answer(demo_gguf, tmp_path / "stock.trace")
    offload = OffloadOptions(mode="on", n_slots=6, layout="plain", operation=operation)
    text, _ = answer(demo_gguf, tmp_path / "offloaded.trace", offload=offload)
    ours, theirs = (TraceReader(tmp_path / f"{name}.trace").read() for name in ("offloaded", "stock"))
    if operation == "id":  # the same bits
        assert text == stock
        assert ours == theirs
    for step in (*ours.steps, *theirs.steps):
        if step.n_tokens > 32:
            assert step.ranking == ()
        for token in range(step.n_tokens if step.ranking else 0):
            assert sorted(step.ranking[token * 16 : (token + 1) * 16]) == list(range(16))
    assert {len(step.ranking) for step in (*ours.steps, *theirs.steps) if step.n_tokens == 1} == {16}


def test_a_dense_model_has_no_routing(tmp_path):
    path = TinyGguf.of("qwen3").write(tmp_path / "dense.gguf")
    with pytest.raises(InvalidRequest, match="has no experts: it is a dense model"):
        Engine.open(path, EngineOptions(trace_file=str(tmp_path / "t")))
    assert not (tmp_path / "t").exists()


def test_a_trace_that_cannot_be_written_does_not_cost_the_answer(demo_gguf):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    engine = Engine.open(demo_gguf, EngineOptions(n_ctx=512, n_threads=1, trace_file="/dev/full"))
    events = list(engine.generate(GenerationRequest("a", engine.tokenize("Hello"), GREEDY, 4)))
    assert isinstance(events[-1], Finished)
    with pytest.raises(QwenctlError, match="cannot write /dev/full"):
        engine.close()


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (ZeroDivisionError("layer 0"), ZeroDivisionError, "layer 0"),
        (ValueError("layer 0: 3 ids"), GenerationFailed, "routing of this model cannot be recorded: layer 0: 3 ids"),
    ],
)
def test_what_a_sink_raises_comes_out_of_the_computation(demo_gguf, tmp_path, monkeypatch, raised, expected, message):
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(native_model, "RoutingCapture", lambda _, n_used: RoutingCapture(broken, n_used))
    with (
        Engine.open(demo_gguf, EngineOptions(n_ctx=512, n_threads=1, trace_file=str(tmp_path / "t"))) as engine,
        pytest.raises(expected, match=message),
    ):
        list(engine.generate(GenerationRequest("a", engine.tokenize("Hello"), GREEDY, 4)))
