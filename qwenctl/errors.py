"""The errors a user can cause or meet, each with the exit code of the program.

    QwenctlError                exit 1   something failed; the message says what, the hint what to do next
    ├── InvalidRequest          exit 2   options or input that contradict each other or make no sense
    ├── DoesNotFit              exit 3   this machine (memory, disk) is too small for what was asked
    ├── ModelNotFound           exit 1   no file, no model here and no repository of that name
    ├── ModelLoadFailed         exit 1   llama.cpp refused the file, or would have crashed on it
    ├── PromptTooLong           exit 1   more prompt tokens than the context holds
    ├── TemplateFailed          exit 1   the model's chat template raised, looped or grew too large
    ├── GenerationFailed        exit 1   llama.cpp reported an error while decoding
    ├── ExpertReadFailed        exit 1   an expert's weights could not be read from the model's file
    ├── BatchFailed             exit 1   some lines of a batch ended in error records
    ├── ServerUnreachable       exit 1   no OpenAI-compatible server answers at an address
    ├── BatchStopped            exit 1   a batch came to its limit of tokens before its end
    └── HubError                exit 1   something between us and a hub of models
        ├── HubUnreachable      exit 1   no connection, or it keeps breaking; the hub is busy or broken
        ├── HubAccessRefused    exit 1   a token is missing, wrong, or has no right to these files
        ├── RemoteFileChanged   exit 1   what the hub gives is not the file that was asked for
        └── TransferDamaged     exit 1   the bytes that came do not have the hash that the hub names

Errors of the `quant` package have their own tree (quant/errors.py). Only cli/errors.py knows both.
Imports nothing of ours.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process answers to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    INTERRUPTED = 130


class QwenctlError(Exception):
    """Something failed in a way the user can act on.

    Args:
        message: one line: what failed, on what, with the numbers.
        hint: one line: the next step, a command where there is one.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidRequest(QwenctlError):
    """Options or input that contradict each other or make no sense."""

    exit_code = ExitCode.USAGE


class DoesNotFit(QwenctlError):
    """This machine is too small for what was asked."""

    exit_code = ExitCode.DOES_NOT_FIT


class ModelNotFound(QwenctlError):
    """No file and no converted model of that name."""


class ModelLoadFailed(QwenctlError):
    """llama.cpp refused the file, or crashed on it in the trial process."""


class PromptTooLong(QwenctlError):
    """The prompt holds more tokens than the context."""

    def __init__(self, n_prompt_tokens: int, n_ctx: int) -> None:
        super().__init__(
            f"the prompt is {n_prompt_tokens} tokens long, but the context holds {n_ctx}",
            f"use --ctx {_next_multiple(n_prompt_tokens + 512, 1024)}, or --overflow truncate-middle or summarise",
        )
        self.n_prompt_tokens = n_prompt_tokens
        self.n_ctx = n_ctx


class TemplateFailed(QwenctlError):
    """The model's chat template raised, looped or grew too large."""


class GenerationFailed(QwenctlError):
    """llama.cpp reported an error while decoding."""


class ExpertReadFailed(QwenctlError):
    """An expert's weights could not be read: an I/O error, or the file is truncated or was changed."""


class BatchFailed(QwenctlError):
    """Some lines of a batch ended in error records; all the others are in the output file."""


class ServerUnreachable(QwenctlError):
    """Nothing answers at a server's address, or not as an OpenAI-compatible server does."""


class BatchStopped(QwenctlError):
    """A batch came to its limit of tokens; what is finished is kept, and the same command goes on with the rest."""


class HubError(QwenctlError):
    """Something between us and a hub of models; what was fetched is kept, and the same command goes on with it."""


class HubUnreachable(HubError):
    """No connection, one that keeps breaking, or a hub that is busy, broken or answers what is no answer."""


class HubAccessRefused(HubError):
    """A token is missing, wrong, or has no right to these files; or the licence was not accepted yet."""


class RemoteFileChanged(HubError):
    """What the hub gives is not there, or not the file that was asked for: another size, commit or hash."""


class TransferDamaged(HubError):
    """The bytes that came do not have the hash that the hub names, however often they are fetched."""


def _next_multiple(value: int, step: int) -> int:
    return -(-value // step) * step
