"""What is measured beside the servers, in a process of its own: a bare loop over llama_decode, and our engine alone.

    python -m serve_bench.child bare|engine MODEL N_THREADS N_PARALLEL N_CTX

Each line on standard input is a question, each line on standard output its answer, in JSON:

    bare      {"n_tokens": 400}                              {"s": …}     a prompt to its first token
    bare      {"n_sequences": 8, "n_steps": 32}              {"tokens_per_s": …}     decoding, nothing else
    engine    {"prompts": […], "max_tokens": 64}             {"n_tokens": …, "s": …}     all prompts at once
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from qwenctl.core import Finished, Message
from qwenctl.services.engine import Engine
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.native_model import NativeModel
from qwenctl.services.step_plan import Chunk


class Bare:
    """llama.cpp and nothing else, in a context like our engine's."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        self._model = NativeModel(model, options)
        self._context, self._batch = self._model.context, self._model.batch

    def answer(self, question: dict[str, Any]) -> dict[str, float]:
        """Measure what is asked for."""
        self._model.forget()
        if "n_tokens" in question:
            return {"s": self._first_token(question["n_tokens"])}
        n_sequences, n_steps = question["n_sequences"], question["n_steps"]
        tokens = [100] * n_sequences
        started = 0.0
        for step in range(n_steps + 1):
            if step == 1:
                started = time.perf_counter()
            self._compute(
                [Chunk(slot, step, 1, wants_logits=True) for slot in range(n_sequences)], [[t] for t in tokens]
            )
            tokens = [self._best(slot) for slot in range(n_sequences)]
        return {"tokens_per_s": n_sequences * n_steps / (time.perf_counter() - started)}

    def _first_token(self, n_tokens: int) -> float:
        tokens = [100 + number % 1000 for number in range(n_tokens)]
        started = time.perf_counter()
        self._compute([Chunk(0, 0, n_tokens, wants_logits=True)], [tokens])
        self._best(n_tokens - 1)
        return time.perf_counter() - started

    def _compute(self, chunks: list[Chunk], tokens: list[list[int]]) -> None:
        self._batch.fill(chunks, tokens)
        if llama_cpp.llama_decode(self._context, self._batch.native) != 0:
            sys.exit("llama_decode failed")

    def _best(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        return int(np.ctypeslib.as_array(logits, shape=(self._model.vocabulary.n_tokens,)).argmax())


class OurEngine:
    """The engine, stepped by nobody but us."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        self._engine = Engine.open(model, options)
        self._chat = ChatModel(self._engine)

    def answer(self, question: dict[str, Any]) -> dict[str, float]:
        """Answer all prompts."""
        options = ChatOptions(sampling={"temperature": 0}, max_tokens=question["max_tokens"])
        messages = [[Message("user", prompt)] for prompt in question["prompts"]]
        requests = [self._chat.prepare(one, options).request for one in messages]
        started = time.perf_counter()
        for request in requests:
            self._engine.submit(request)
        n_tokens = 0
        while self._engine.has_work:
            for event in self._engine.step():
                if isinstance(event, Finished):
                    n_tokens += event.usage.n_generated_tokens
        return {"n_tokens": n_tokens, "s": time.perf_counter() - started}


def main() -> None:
    """Answer questions until there are no more."""
    kind, model, *numbers = sys.argv[1:]
    n_threads, n_parallel, n_ctx = map(int, numbers)
    options = EngineOptions(n_ctx=n_ctx, n_parallel=n_parallel, n_threads=n_threads)
    side: Bare | OurEngine = (Bare if kind == "bare" else OurEngine)(Path(model), options)
    for line in sys.stdin:
        print(json.dumps(side.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
