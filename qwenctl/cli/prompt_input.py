"""What `run` is asked: which of its words is the model, and what files and standard input add to the prompt.

Knows file names and bytes; nothing of templates.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

from qwenctl.errors import InvalidRequest
from qwenctl.services.attachment import Attachment
from qwenctl.services.model_store import is_model, looks_like_path, model_not_found
from qwenctl.services.text_bytes import decode_utf8
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings
from qwenctl.units import counted

STDIN = "-"
MAX_INPUT_BYTES = 64 << 20


class Asked(NamedTuple):
    """The words of `run`, told apart. None: not given."""

    model: str | None
    prompt: str | None


def tell_apart(words: Sequence[str], settings: Settings) -> Asked:
    """Decide which word is the model: the first of two, and a single one if a model of that name is here.

    Raises:
        InvalidRequest: more than two words: a prompt without quotes.
        ModelNotFound: a single word that is no model, but looks like a file.
    """
    if len(words) > 2:
        raise InvalidRequest(f"{len(words)} words instead of a model and a prompt", 'quote the prompt: "why is it so?"')
    if len(words) == 2:
        return Asked(*words)
    if not words or words[0] == STDIN:
        return Asked(None, words[0] if words else None)
    if is_model(words[0], settings):
        return Asked(words[0], None)
    if looks_like_path(words[0]):
        raise model_not_found(words[0], settings)
    return Asked(None, words[0])


def read_prompt(
    prompt: str | None, warn: Callable[[str], None], files: Sequence[str] = (), *, is_needed: bool = True
) -> str:
    """Return the whole prompt: documents first, then what was typed, as `ordered` has it; any of them alone.

    A terminal is never read: a prompt must be typed on the command line, or in `qwenctl chat`.

    Args:
        prompt: the word on the command line; "-": what is piped in alone.
        warn: told of bytes that are no text.
        files: the text of files that were attached.
        is_needed: there must be one; else it may be empty.

    Raises:
        InvalidRequest: there is no prompt, or too much of it.
    """
    from_terminal = sys.stdin.isatty()
    if prompt in (None, STDIN) and from_terminal and not files and is_needed:
        raise InvalidRequest(
            "no prompt, and standard input is a terminal",
            'qwenctl run "your question", or pipe text into it, or talk in qwenctl chat',
        )
    piped = "" if from_terminal else read_text(sys.stdin.buffer, warn)
    text = ordered([*files, piped], "" if prompt in (None, STDIN) else prompt or "")
    if not text and is_needed:
        raise InvalidRequest("the prompt is empty", 'qwenctl run "your question"')
    return text


def ordered(documents: Sequence[str], question: str) -> str:
    """Return one prompt of all parts, blank lines between them: documents before the question.

    Two questions about the same documents then begin alike, and the second one finds the first one's work in the cache.
    """
    return "\n\n".join(part for part in (*documents, question) if part.strip())


def attached_line(attachments: Sequence[Attachment], tokenize: Callable[[str], Sequence[int]]) -> str:
    """Return how many files there are, and how much of the context they take: 3 files, 12.3k tokens."""
    n_tokens = sum(len(tokenize(str(attachment))) for attachment in attachments)
    count = f"{n_tokens / 1000:.1f}k" if n_tokens >= 1000 else str(n_tokens)
    return f"{counted(len(attachments), 'file')}, {count} tokens"


def read_text(stream: BinaryIO, warn: Callable[[str], None]) -> str:
    """Return the text of a byte stream, without byte order mark and last line break.

    Raises:
        InvalidRequest: more than `MAX_INPUT_BYTES`.
    """
    data = stream.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise InvalidRequest(f"standard input holds more than {MAX_INPUT_BYTES >> 20} MiB", "send less, or use batch")
    return decode_utf8(data, "standard input", warn).rstrip("\r\n")


def text_or_file(text: str | None) -> str | None:
    """Return the value of an option that takes text, or `@FILE` for a file's text.

    Raises:
        InvalidRequest: the file cannot be read as UTF-8.
    """
    if text is None or not text.startswith("@"):
        return text
    path = typed_path(text[1:])
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidRequest(f"{path}: {reason}", "--system @FILE reads the text from a file") from error
