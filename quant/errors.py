"""Errors of the `quant` package, one class for each cause a user can act on.

QuantError
├── FileFormatError             bytes that are not what the format demands
│   ├── SafetensorsError        a safetensors file or its index
│   ├── GgufError               a GGUF file
│   └── JsonFileError           config.json, tokenizer.json and the like
├── CheckpointError             shards or tensors missing, extra or overlapping; pickles
├── UnsupportedArchitecture     a model family without a table here
├── UnsupportedTensor           a tensor or a type that cannot be converted
├── BudgetTooSmall              no types make the file as small as was asked
├── RecipeMismatch              a recipe of another model
├── ImatrixMismatch             an importance matrix of another model
├── BadWeights                  NaN or infinity in a tensor that is to be quantized
├── ResumeRefused               the journal belongs to other sources or other settings
├── OutputExists                the output is there already and was not to be replaced
├── NotEnoughDisk               the output would not fit
├── DamagedSource               a file of the source has another hash than its publisher says
├── DamagedFile                 digests differ; names the tensors
└── NativeLibraryError          libggml not found, or not the build we know
"""

from __future__ import annotations

from pathlib import Path

from quant.shown import some


class QuantError(Exception):
    """Base of every error that the `quant` package raises on purpose.

    Args:
        message: one line: what failed, on what, with the numbers.
        hint: one line: the next step.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class FileFormatError(QuantError):
    """Bytes that are not what the format demands."""

    def __init__(self, path: Path, detail: str, hint: str | None = None) -> None:
        super().__init__(f"{path}: {detail}", hint)
        self.path = path
        self.detail = detail


class SafetensorsError(FileFormatError):
    """A safetensors file, or its index, that must not be read."""


class GgufError(FileFormatError):
    """A GGUF file that must not be read."""


class JsonFileError(FileFormatError):
    """A JSON file of a checkpoint that is missing, too large or not what it must be."""


class CheckpointError(QuantError):
    """Shards or tensors that are missing, extra or overlapping, or weights stored as pickles."""


class UnsupportedArchitecture(QuantError):
    """A model family that has no table here."""


class UnsupportedTensor(QuantError):
    """A tensor or a type that cannot be converted."""


class ImatrixMismatch(QuantError):
    """An importance matrix of another model, or two that are not of one."""


class BudgetTooSmall(QuantError):
    """No types make the tensors as small as was asked."""

    def __init__(self, budget_bytes: int, smallest_bytes: int) -> None:
        super().__init__(
            f"the budget leaves {budget_bytes:,} bytes for the weights; the smallest types take {smallest_bytes:,}",
            "raise --budget, or convert a smaller model",
        )
        self.budget_bytes = budget_bytes
        self.smallest_bytes = smallest_bytes


class RecipeMismatch(QuantError):
    """A recipe that names other tensors than the model has, or types that do not fit them."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "make one for this model: qwenctl convert SRC OUT --budget … --recipe FILE")


class BadWeights(QuantError):
    """NaN or infinity in a tensor that is to be quantized."""


class ResumeRefused(QuantError):
    """The journal of an earlier run belongs to other sources or other settings."""


class OutputExists(QuantError):
    """The output is there already and was not to be replaced."""


class OutputBusy(QuantError):
    """Another process is writing the same output."""


class WriteFailed(QuantError):
    """The disk refused a write, or gave back other bytes than were written. The journal keeps what is done."""


class NotEnoughDisk(QuantError):
    """The output would not fit on its file system."""

    def __init__(self, folder: Path, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{folder} has {free_bytes:,} bytes free, the output needs {needed_bytes:,}",
            "free some space, choose a smaller --type, or write to another disk",
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class DamagedSource(QuantError):
    """A file of the source has another hash than its publisher says."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(
            f"{path.name}: its SHA-256 is {found}, the publisher's {expected}",
            "something between here and there changes what is sent: try another network",
        )
        self.path = path


class DamagedFile(QuantError):
    """Digests differ from those written when the file was made."""

    def __init__(self, path: Path, tensors: tuple[str, ...]) -> None:
        super().__init__(f"{path}: damaged: {some(tensors, 8)}", "convert it again, or restore it from a backup")
        self.path = path
        self.tensors = tensors


class NativeLibraryError(QuantError):
    """libggml was not found, or is not the build we know."""
