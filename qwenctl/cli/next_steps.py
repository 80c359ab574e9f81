"""The next command to type after an error that names none itself: one for each cause, by class."""

from __future__ import annotations

import errno

from quant.errors import (
    CheckpointError,
    DamagedFile,
    FileFormatError,
    NativeLibraryError,
    NotEnoughDisk,
    OutputExists,
    QuantError,
    ResumeRefused,
    UnsupportedArchitecture,
)
from qwenctl.errors import (
    BatchFailed,
    DoesNotFit,
    ExpertReadFailed,
    GenerationFailed,
    HubAccessRefused,
    HubError,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    QwenctlError,
    TemplateFailed,
)

_HELP = "{command} --help shows what is possible"
_DOCTOR = "qwenctl doctor looks for what is wrong with this machine"

# The first class that fits wins, so subclasses come before their bases.
NEXT_STEPS: tuple[tuple[type[BaseException], str], ...] = (
    (InvalidRequest, _HELP),
    (DoesNotFit, "qwenctl plan MODEL says what fits this machine, and how"),
    (ModelNotFound, "qwenctl models lists those that are here, qwenctl pull NAME gets another"),
    (ModelLoadFailed, "qwenctl verify MODEL checks the file, qwenctl doctor this machine"),
    (
        TemplateFailed,
        "another file of the model may have a better one: qwenctl pull NAME",
    ),
    (ExpertReadFailed, "qwenctl verify MODEL reads all of the file and says what is damaged"),
    (GenerationFailed, "try it again; if it fails again: " + _DOCTOR),
    (BatchFailed, "the same command with --retry-errors answers those lines again"),
    (HubAccessRefused, "hf auth login stores a token, HF_TOKEN=… gives one"),
    (HubError, "the same command goes on where this one ended"),
    (NotEnoughDisk, "qwenctl models prune removes what is left over, qwenctl models rm NAME a model"),
    (OutputExists, "name another output, or replace it with --force"),
    (ResumeRefused, "--force begins anew"),
    (DamagedFile, "qwenctl models verify says which models are damaged; pull or convert it again"),
    (UnsupportedArchitecture, "qwenctl convert --help says which families there are"),
    (CheckpointError, "fetch it again: qwenctl pull NAME checks every file"),
    (FileFormatError, "qwenctl verify FILE says what is wrong with a file"),
    (NativeLibraryError, "make setup builds llama.cpp for this machine again; qwenctl doctor says what is there"),
    (MemoryError, "close other programs, or take a smaller model or context; qwenctl plan MODEL says what fits"),
    (QwenctlError, _DOCTOR),
    (QuantError, _DOCTOR),
)
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def next_step(error: BaseException, command: str) -> str:
    """Return what to type after `error`.

    Args:
        error: one that a user can act on.
        command: that failed: "qwenctl run".
    """
    if isinstance(error, OSError):
        is_full = error.errno in _DISK_FULL
        return (
            "qwenctl models prune makes room"
            if is_full
            else f"name a file or folder that you may use: {command} --help"
        )
    return next((step for kind, step in NEXT_STEPS if isinstance(error, kind)), _HELP).format(command=command)
