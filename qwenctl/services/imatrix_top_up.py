"""Text that the model writes itself, for experts that the calibration text reaches too rarely.

    questions of the shipped conversations    answered, thinking and not, in the model's own chat format
    beginnings of the shipped plain texts     continued

A model's own text takes the routes that its answers take, which no foreign text does as well; rare experts are often
those of thinking. The same round is written from the same seeds. Knows nothing of statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import GenerationFailed, PromptTooLong
from qwenctl.services.activation_model import ActivationModel
from qwenctl.services.calibration_text import CalibrationText, Talk
from qwenctl.services.engine import Engine
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt

_OPENING_CHARS = 120
_TEMPERATURE = 0.9  # a little below 1: variety without nonsense
_ROUNDS_OF_SEQUENCES = 2  # texts of a round, for each sequence that is computed at once


def write_round(model: ActivationModel, text: CalibrationText, number: int) -> list[tuple[int, ...]]:
    """Return the tokens of some texts, prompts included; round `number` begins where the one before it ended.

    Raises:
        GenerationFailed: llama.cpp failed.
    """
    n_texts = _ROUNDS_OF_SEQUENCES * model.n_sequences
    engine = model.engine()
    with closing(ChatModel(engine)) as chat:
        prompts = dict(_prompt(chat, text, n_texts * number + i, model.chunk_tokens) for i in range(n_texts))
        written = _generate(engine, [request for request, _ in prompts.values()])
    return [engine.tokenize(opening + written[name], parse_special=True) for name, (_, opening) in prompts.items()]


def _prompt(
    chat: ChatModel, text: CalibrationText, number: int, n_ctx: int
) -> tuple[str, tuple[GenerationRequest, str]]:
    """Return the name, the request and the text of a prompt; every third one is a plain beginning."""
    talks = [piece for piece in text.pieces if isinstance(piece, Talk) and piece.question]
    plain = [piece for piece in text.pieces if isinstance(piece, str)]
    name, options = (
        f"text-{number}",
        ChatOptions(thinking=number % 2 == 0, sampling={"seed": number, "temperature": _TEMPERATURE}, max_tokens=n_ctx),
    )
    if talks and chat.template is not None and (number % 3 or not plain):
        try:
            prepared: PreparedPrompt = chat.prepare(talks[number % len(talks)].question, options, request_id=name)
            return name, (prepared.request, prepared.text)
        except PromptTooLong:
            pass  # a short context: a beginning of a text will do
    opening = plain[number % len(plain)][:_OPENING_CHARS] if plain else "The "
    tokens = chat.engine.tokenize(opening, parse_special=False, add_special=True)[: n_ctx // 2]
    sampling = SamplingParams(temperature=_TEMPERATURE, top_k=0, top_p=0.95, seed=number)
    return name, (GenerationRequest(name, tokens, sampling, n_ctx - len(tokens)), opening)


def _generate(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[str, str]:
    """Return what the model writes, by the names of the requests."""
    written = {request.request_id: "" for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, TextDelta):
                written[event.request_id] += event.text
            elif not isinstance(event, Finished):
                continue
            elif event.reason is FinishReason.ERROR:
                raise GenerationFailed(event.error or "the model stopped with an error")
            elif event.reason is FinishReason.STOP:
                written[event.request_id] += engine.info.eos_token + "\n"  # it ends the turn, but shows nothing
    return written
