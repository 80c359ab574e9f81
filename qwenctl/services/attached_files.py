"""Files for a prompt: from paths and globs to texts, in a stable order, each file once. What is no text is refused.

A path that somebody named must be text. What a glob finds besides, pictures in a folder of sources, is left out with a
warning.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from qwenctl.errors import InvalidRequest
from qwenctl.services.attachment import Attachment
from qwenctl.services.text_bytes import decode_utf8
from qwenctl.services.typed_path import is_there, typed_path
from qwenctl.units import format_memory

MAX_FILE_BYTES = 16 << 20  # some four million tokens
MAX_ALL_BYTES = 64 << 20
_LEAST_READABLE = 0.95  # of the characters of a text in another encoding


def read_attachments(patterns: Sequence[str], warn: Callable[[str], None]) -> tuple[Attachment, ...]:
    """Return the texts that paths and globs name: in their order, what a glob finds by name, each file once.

    Args:
        patterns: `~` is the home folder, `**` any depth; a name that is a file is taken as it is.
        warn: told of what is left out, and of bytes that are no UTF-8.

    Raises:
        InvalidRequest: a file is not there, is no text, or is too large; a glob finds nothing. The message names it.
    """
    found: list[Attachment] = []
    seen: set[tuple[int, int]] = set()
    left_out: list[str] = []
    n_bytes = 0
    for path, is_named in _paths(patterns):
        data = _read(path)
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        problem = _problem(data)
        if problem is None:
            n_bytes += len(data)
            found.append(Attachment(str(path), decode_utf8(data, str(path), warn)))
        elif is_named:
            raise InvalidRequest(f"{path} {problem}", _hint(path))
        else:
            left_out.append(str(path))
        if n_bytes > MAX_ALL_BYTES:
            raise InvalidRequest(f"the files hold more than {format_memory(MAX_ALL_BYTES)}", "name fewer of them")
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        warn(f"left out, because they are no text: {', '.join(left_out[:5])}{more}")
    return tuple(found)


def _paths(patterns: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """Yield each file, and whether it was named."""
    for pattern in patterns:
        path = typed_path(pattern)
        if not glob.has_magic(pattern) or is_there(path):
            if is_there(path) and path.is_dir():
                hint = f"name its files: -f '{pattern.rstrip('/')}/**'"
                raise InvalidRequest(f"{pattern} is a folder", hint)
            yield path, True
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  Path.glob has no absolute ones
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise InvalidRequest(f"no file matches {pattern}", "put it between quotes; ** means any depth")
        yield from ((file, False) for file in files)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}", "-f FILE puts a file's text before the question") from error


def _problem(data: bytes) -> str | None:
    """Return why `data` is no text to put in a prompt; None: it is."""
    if len(data) > MAX_FILE_BYTES:
        return f"is larger than {format_memory(MAX_FILE_BYTES)}"
    if b"\0" in data or data.startswith(b"%PDF-"):
        return "is not text"
    text = data.decode("utf-8", errors="replace")
    return "is not text" if text.count("�") > (1 - _LEAST_READABLE) * len(text) else None


def _hint(path: Path) -> str:
    if path.suffix.lower() == ".pdf":
        return f"turn it into text: pdftotext {os.fspath(path)} - | qwenctl run …"
    return "leave it out, or name the part that matters"
