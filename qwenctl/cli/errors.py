"""How an error reaches the user: one line, one hint, an exit code.

One table maps the classes of both error trees to exit codes; the messages are written where the errors are raised, and
so is the hint, unless next_steps.py has it.
Whatever is not in the table is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import errno
import sys
import traceback

import click

from quant.errors import NotEnoughDisk, QuantError
from qwenctl.cli.next_steps import next_step
from qwenctl.errors import DoesNotFit, ExitCode, InvalidRequest, QwenctlError


class OutputClosed(Exception):
    """The reader of standard output has gone, as `head` does. The program ends without a word."""


# The first class that fits wins, so subclasses come before their bases.
EXIT_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (OutputClosed, ExitCode.FAILED),
    (InvalidRequest, ExitCode.USAGE),
    (DoesNotFit, ExitCode.DOES_NOT_FIT),
    (QwenctlError, ExitCode.FAILED),
    (NotEnoughDisk, ExitCode.DOES_NOT_FIT),
    (QuantError, ExitCode.FAILED),
    (click.UsageError, ExitCode.USAGE),
    (click.ClickException, ExitCode.FAILED),
    (MemoryError, ExitCode.DOES_NOT_FIT),
    (OSError, ExitCode.FAILED),
)
_DEVICE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def exit_code_of(error: BaseException) -> ExitCode | None:
    """Return the exit code of an error the user can act on; None for a bug.

    An `OSError` counts only when it names a file or blames the device: "Permission denied: out.gguf" says enough, a
    bare "Bad file descriptor" is a bug.
    """
    if isinstance(error, OSError) and error.filename is None and error.errno not in _DEVICE_ERRORS:
        return None
    return next((code for known, code in EXIT_CODES if isinstance(error, known)), None)


def report(error: BaseException, *, debug: bool, plain: bool, command: str = "qwenctl") -> int:
    """Print `error` of `command` on standard error and return the exit code of the process."""
    code = exit_code_of(error)
    if isinstance(error, OutputClosed):
        return ExitCode.FAILED
    if debug or code is None:
        traceback.print_exception(error)
    if code is None:
        return ExitCode.FAILED
    message, hint = _sentences(error)
    sys.stderr.write(error_lines(message, hint or next_step(error, command), styled=not plain and sys.stderr.isatty()))
    sys.stderr.flush()
    return code


def error_lines(message: str, hint: str | None, *, styled: bool) -> str:
    """Return the one or two lines that an error is shown as."""
    error, next_step = ("\x1b[1;31merror:\x1b[0m", "\x1b[36mhint:\x1b[0m") if styled else ("error:", "hint:")
    return f"{error} {one_line(message)}\n" + (f"{next_step} {one_line(hint)}\n" if hint else "")


def one_line(text: str) -> str:
    """Return `text` without line breaks and control characters: file names and model metadata reach messages.

    What stands for bytes that are no UTF-8 becomes the replacement character.
    """
    return "".join(_shown(char) for char in text).strip()


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    return "�" if "\ud800" <= char <= "\udfff" else " "


def _sentences(error: BaseException) -> tuple[str, str | None]:
    if isinstance(error, QwenctlError | QuantError):
        return error.message, error.hint
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        return error.format_message(), f"{context.command_path} --help shows what is possible" if context else None
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}", None
    return str(error) or "out of memory", None
