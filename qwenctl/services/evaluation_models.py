"""The models of an evaluation: what their files say, and which of them are open at a time.

Everything native happens on one thread (native_thread.py), on which whatever is running can be broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from quant.gguf_read import read_gguf
from qwenctl.errors import InvalidRequest
from qwenctl.moe.context_memory import ContextShape
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.abort_flag import AbortFlag
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.logits import LogitsModel
from qwenctl.services.native_model import NativeModel
from qwenctl.services.native_thread import NativeThread

T = TypeVar("T")

_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model by its header."""

    path: Path
    n_bytes: int
    n_weights: int
    bits_per_weight: float
    tokens: Sequence[str]  # the vocabulary
    n_ctx_train: int | None
    shape: ContextShape

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return self.path.stem


def read_model(path: Path) -> ModelFile:
    """Return what the header of a GGUF file, or of the first of a split set, says.

    Raises:
        GgufError: it cannot be read.
        InvalidRequest: it has no vocabulary.
    """
    gguf = read_gguf(path)
    tokens = gguf.metadata.get(_TOKENS)
    if not isinstance(tokens, list | tuple) or not tokens:
        raise InvalidRequest(f"{path} has no vocabulary: it is no language model")
    n_weights = sum(tensor.n_weights for tensor in gguf.tensors.values())
    n_tensor_bytes = sum(tensor.n_bytes for tensor in gguf.tensors.values())
    return ModelFile(
        path=path,
        n_bytes=gguf.size_bytes,
        n_weights=n_weights,
        bits_per_weight=8 * n_tensor_bytes / max(1, n_weights),
        tokens=[str(token) for token in tokens],
        n_ctx_train=gguf.n_ctx_train,
        shape=ContextShape.of(gguf.metadata, len(tokens)),
    )


def check_same_vocabulary(model: ModelFile, reference: ModelFile) -> None:
    """Make sure that both models' tokens are the same.

    Raises:
        InvalidRequest: they are not; the message names the first difference.
    """
    ours, theirs = model.tokens, reference.tokens
    what = f"{model.path} and the reference {reference.path} have different vocabularies"
    hint = "a reference is the same model at a higher precision: its BF16 or F32 file"
    if len(ours) != len(theirs):
        raise InvalidRequest(f"{what}: {len(ours):,} and {len(theirs):,} tokens", hint)
    for token, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            raise InvalidRequest(f"{what}: token {token} is {one!r} in one, {other!r} in the other", hint)


class ModelDesk:
    """Opens models, and closes them at the end of a `with` at the latest.

    Args:
        options: how they are opened; where experts are is said for each.
        keeps_all: else opening one closes the one before.
        warn: is told whatever could not be done as it should.
    """

    def __init__(self, options: EngineOptions, *, keeps_all: bool, warn: Callable[[str], None]) -> None:
        self._options = options
        self._keeps_all = keeps_all
        self._warn = warn
        self._abort = AbortFlag()
        self._thread = NativeThread("llama.cpp", self._abort.set)
        self._open = ExitStack()

    def open(self, path: Path, offload: OffloadOptions) -> LogitsModel:
        """Open a file that is known to load (load_trial.py); what is open already stays open as `keeps_all` says.

        Raises:
            ModelLoadFailed, DoesNotFit, ExpertReadFailed: see NativeModel.
        """
        if not self._keeps_all:
            self._open.close()
        options = replace(self._options, offload=offload)

        def load() -> NativeModel:  # registered where it is made: an interrupt of the wait must not lose it
            return self._open.enter_context(closing(NativeModel(path, options, self._abort)))

        native = self._thread.run(load)
        for text in native.warnings:
            self._warn(text)
        return LogitsModel(native, self._thread, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()
        self._open.close()


def on_native_thread(call: Callable[[], T]) -> T:
    """Return what `call` returns, made where it can be waited for and interrupted. For calls that end soon."""
    thread = NativeThread("llama.cpp", lambda: None)
    try:
        return thread.run(call)
    finally:
        thread.close()
