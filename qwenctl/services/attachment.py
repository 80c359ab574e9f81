"""How the text of a file stands in a prompt: its name, and the text between fences.

    File: src/main.py
    ```py
    …
    ```

A fence is longer than any row of backticks in the text, as CommonMark wants it (spec.commonmark.org, fenced code
blocks). Knows no files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

_HEAD = re.compile(r"File: [^\n]*\n(?P<fence>`{3,})[^\n`]*\n")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file's text, under the name that the user knows it by."""

    name: str
    text: str

    def __str__(self) -> str:
        rows = re.findall(r"`+", self.text)
        fence = "`" * max(3, 1 + max(map(len, rows), default=0))
        suffix = PurePath(self.name).suffix[1:]
        language = suffix if re.fullmatch(r"[A-Za-z0-9+]{1,12}", suffix) else ""
        name = "".join(char if char.isprintable() else "?" for char in self.name)
        return f"File: {name}\n{fence}{language}\n{self.text.rstrip()}\n{fence}"


def without_attachments(prompt: str) -> str:
    """Return what follows the attachments that `prompt` begins with: the question, for a title."""
    rest = prompt
    while head := _HEAD.match(rest):
        end = rest.find(f"\n{head['fence']}\n", head.end() - 1)
        if end < 0:
            return "" if rest.endswith(f"\n{head['fence']}") else rest
        rest = rest[end + len(head["fence"]) + 2 :].lstrip("\n")
    return rest
