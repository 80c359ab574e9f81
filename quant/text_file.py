"""Read a text file that nobody vouches for: bounded, UTF-8, never a pipe. Knows nothing of what it says."""

from __future__ import annotations

from pathlib import Path

from quant.errors import FileFormatError


def read_text_file(path: Path, max_bytes: int) -> str:
    """Return the text of the file.

    Raises:
        FileFormatError: not a regular file, unreadable, longer than `max_bytes`, or not UTF-8.
    """
    try:
        if not path.is_file():
            raise FileFormatError(path, "not a regular file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise FileFormatError(path, error.strerror or str(error)) from error
    if len(data) > max_bytes:
        raise FileFormatError(path, f"longer than the {max_bytes:,} bytes allowed for it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
