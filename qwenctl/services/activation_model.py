"""An opened model that reads text in chunks of equal length, for the sake of what its weights are multiplied with.

Several chunks are one batch, each a sequence of its own, so that an offloaded expert is read for all of them at once.
Every token is an output: llama.cpp leaves the others out of the last layer's experts. Their logits cost memory, which
bounds the batch. The KV cache is f32: what is counted are activations, and nothing is to come between.

Knows nothing of texts and statistics; the probe takes what it sees.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from quant.gguf_read import GgufFile
from qwenctl.core import ModelInfo
from qwenctl.errors import DoesNotFit, GenerationFailed
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.activation_probe import ActivationProbe
from qwenctl.services.engine import Engine
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.native_model import NativeModel, open_native_model
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.step_plan import Chunk
from qwenctl.services.vocabulary import Vocabulary

_MOST_LOGITS_BYTES = 1280 << 20  # of a batch, once in the compute buffer and once where they are read
_MOST_SEQUENCES = 8
_PLAIN_ATTENTION_TOKENS = 2048  # up to so long a chunk, attention scores are small, and flash attention brings nothing
_SURVEY_TOKENS = 2


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How a model is to be opened for reading.

    `exact`: weights stay as the file has them, so that sums do not depend on where experts are. Else each placement has
    the arrangement that is quickest there; its rounding sends one token in ten thousand to another expert, which shows
    where an expert has seen a few dozen.
    """

    chunk_tokens: int = 512
    n_threads: int | None = None
    offload: OffloadOptions = field(default_factory=OffloadOptions)
    exact: bool = False

    def most_sequences(self, n_vocab: int) -> int:
        """Return how many chunks a batch may have."""
        logits_bytes = 2 * 4 * n_vocab * self.chunk_tokens
        return max(1, min(_MOST_SEQUENCES, _MOST_LOGITS_BYTES // logits_bytes))

    def engine_options(self, n_sequences: int) -> EngineOptions:
        """Return how the engine is to be opened; experts stay off devices, where nobody sees what they multiply."""
        n_tokens = n_sequences * self.chunk_tokens
        return EngineOptions(
            n_ctx=self.chunk_tokens,
            n_parallel=n_sequences,
            n_threads=self.n_threads,
            n_batch=n_tokens,
            n_outputs=n_tokens,
            cache_type_k="f32",
            cache_type_v="f32",
            flash_attention=False if self.chunk_tokens <= _PLAIN_ATTENTION_TOKENS else None,
            repack=not self.exact,
            offload=replace(
                self.offload, vram_bytes=0, prefetch="off", layout="plain" if self.exact else self.offload.layout
            ),
        )


class ActivationModel:
    """Use `ActivationModel.open`, and close it, or use it as a context manager."""

    def __init__(
        self, model: NativeModel, thread: NativeThread, probe: ActivationProbe, options: EngineOptions
    ) -> None:
        self._model, self._thread, self._probe, self._options = model, thread, probe, options
        self.n_sequences = options.n_parallel
        self.chunk_tokens = model.n_ctx

    @classmethod
    def open(cls, gguf: GgufFile, options: ReadingOptions, probe: ActivationProbe) -> Self:
        """Load a GGUF file; see `Engine.open`. Where memory is short, fewer chunks are computed at once.

        Args:
            gguf: the file.
            options: how.
            probe: sees what is computed in its mode "collect".
        """
        tokens = gguf.metadata.get("tokenizer.ggml.tokens", [])
        n_sequences = options.most_sequences(max(1, len(tokens) if isinstance(tokens, list) else 1))
        while True:
            engine_options = options.engine_options(n_sequences)
            try:
                return cls(*open_native_model(gguf.paths[0], engine_options, probe), probe, engine_options)
            except DoesNotFit:  # found out before anything is loaded
                if n_sequences == 1:
                    raise
                n_sequences //= 2

    @property
    def info(self) -> ModelInfo:
        """What the model's file says."""
        return self._model.info

    @property
    def vocabulary(self) -> Vocabulary:
        """Text to tokens."""
        return self._model.vocabulary

    @property
    def placement(self) -> str | None:
        """Where the experts of an offloaded model are, in a line; None: nothing is offloaded."""
        return self._model.placement

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be done as it should while the model was opened; a line each."""
        return tuple(self._model.warnings)

    def survey(self) -> Mapping[str, tuple[str, ...]]:
        """Compute two tokens; return, by the first of them, the weights that share an input."""
        self._probe.mode = "survey"
        self._decode([[0] * _SURVEY_TOKENS])
        self._probe.end_survey()
        return self._probe.members

    def read(self, chunks: Sequence[Sequence[int]]) -> None:
        """Compute up to `n_sequences` chunks of up to `chunk_tokens` tokens, each from an empty cache.

        Raises:
            GenerationFailed: llama.cpp failed, or what it multiplies cannot be read.
            KeyboardInterrupt: what the probe's sinks hold is of a part of the chunks then.
        """
        self._probe.mode = "collect"
        try:
            self._decode(chunks)
        finally:
            self._probe.mode = "idle"

    def engine(self) -> Engine:
        """Return an engine on the same model, to generate with; never close it. `read` ends its use."""
        self._probe.mode = "idle"
        self._thread.run(self._model.forget)
        return Engine(self._model, self._thread, self._options, time.monotonic)

    def close(self) -> None:
        """Free the model."""
        try:
            self._thread.run(self._model.close)
        finally:
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, chunks: Sequence[Sequence[int]]) -> None:
        model = self._model
        batch = [Chunk(slot, 0, len(tokens), True) for slot, tokens in enumerate(chunks)]

        def compute() -> int:
            model.rearm()
            model.forget()
            model.batch.fill(batch, chunks)
            native = model.batch.native
            ctypes.memset(native.logits, 1, native.n_tokens)
            return model.decode()

        status = self._thread.run(compute)
        if status != 0:
            raise GenerationFailed(f"{model.path}: llama_decode failed with status {status}")
