"""How far a run that gathers statistics is: everything that it needs to go on, in one file that is replaced as a whole.

    OUT.partial        GGUF: NAME.sums F64 (n_matrices, n_columns), NAME.counts F64, NAME.moments F32, NAME.n_tokens F64
                       and `qwenctl.progress`, JSON: identity, chunks read, what was written by the model
    OUT.partial.lock   held while a process works on OUT

Sums are kept in full, so that a run that was interrupted ends with the same bits as one that was not. Killed while it
saves, a run goes on from the time before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quant.durable_files import DurableFiles, is_disk_full, try_lock
from quant.errors import GgufError, OutputBusy, ResumeRefused, WriteFailed
from quant.gguf_arrays import read_gguf_array, write_gguf_arrays
from quant.gguf_format import GgufValueType
from quant.gguf_read import read_gguf
from quant.gguf_write import GgufField
from quant.journal import describe_differences

_PROGRESS = "qwenctl.progress"
_TYPE = "imatrix-progress"
_N_NAMED = 3

Arrays = dict[str, NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Numbers of a run. `n_chunks` and `n_tokens` are of the text, the others of what the model wrote itself."""

    n_chunks: int = 0
    n_tokens: int = 0
    n_rounds: int = 0
    n_written_tokens: int = 0

    @property
    def n_all_tokens(self) -> int:
        """Tokens that were read, whoever wrote them."""
        return self.n_tokens + self.n_written_tokens


@dataclass(frozen=True, slots=True)
class RunState:
    """A run at a moment between two batches. Arrays by name of the tensor and what they are: "….weight.sums"."""

    identity: Mapping[str, str]
    progress: Progress = Progress()
    arrays: Arrays = field(default_factory=dict)


class StateFile:
    """The state of the run that makes `out`, locked. A context manager.

    Raises:
        OutputBusy: another process makes `out`.
        OSError: the lock cannot be made.
    """

    def __init__(self, out: Path, files: DurableFiles | None = None) -> None:
        self.path = out.with_name(out.name + ".partial")
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        self._files = files or DurableFiles()
        self._lock = self._files.open(self._lock_path)
        if not try_lock(self._lock):
            os.close(self._lock)
            raise OutputBusy(f"another process is writing {out} (it holds {self._lock_path})", "wait for it")

    @property
    def exists(self) -> bool:
        """Whether an earlier run left a state."""
        return self.path.exists()

    def load(self, identity: Mapping[str, str]) -> RunState:
        """Return the state of an earlier run.

        Raises:
            ResumeRefused: that run read another model, another text or in another way; or its state is damaged.
        """
        try:
            state = self._read()
        except (GgufError, ValueError, TypeError, KeyError) as error:
            raise ResumeRefused(
                f"{self.path}: the progress of an earlier run cannot be read: {error}", "--restart discards it"
            ) from error
        differences = describe_differences(state.identity, identity)
        if differences:
            raise ResumeRefused(
                f"{self.path} belongs to an unfinished run that differs: {'; '.join(differences[:_N_NAMED])}",
                "--restart discards the unfinished run and starts over",
            )
        return state

    def save(self, state: RunState) -> None:
        """Replace the state.

        Raises:
            WriteFailed: the disk is full or refuses; the state before is still there.
        """
        document = {"identity": dict(state.identity), **asdict(state.progress)}
        metadata = {
            "general.type": GgufField(GgufValueType.STRING, _TYPE),
            _PROGRESS: GgufField(GgufValueType.STRING, json.dumps(document)),
        }
        try:
            write_gguf_arrays(self.path, metadata, state.arrays, self._files)
        except OSError as error:
            raise write_failed(self.path, error) from error

    def remove(self) -> None:
        """Forget the state: the run is over."""
        self._files.remove(self.path)

    def close(self) -> None:
        """Give the lock back."""
        self._files.remove(self._lock_path)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> RunState:
        gguf = read_gguf(self.path)
        if gguf.metadata.get("general.type") != _TYPE:
            raise GgufError(self.path, "no progress of `qwenctl imatrix`")
        stored: dict[str, Any] = json.loads(str(gguf.metadata[_PROGRESS]))
        arrays = {name: read_gguf_array(info) for name, info in gguf.tensors.items()}
        return RunState(stored.pop("identity"), Progress(**stored), arrays)


def write_failed(path: Path, error: OSError) -> WriteFailed:
    """Return the error of a file that could not be written."""
    hint = "free some space, then run the same command again" if is_disk_full(error) else None
    return WriteFailed(f"{path}: {error.strerror or error}", hint)
