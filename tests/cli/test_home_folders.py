"""`~name` where nobody has that name: a path like any other, whose absence is said in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_NOBODY = "~nobody-of-that-name/x"


@pytest.mark.parametrize(
    "words",
    [
        ["show", _NOBODY],
        ["verify", _NOBODY],
        ["convert", "{folder}", _NOBODY],
        ["batch", _NOBODY, "-o", "out.jsonl"],
        ["imatrix", "{file}", "-o", _NOBODY],
        ["eval", "{file}", "--text", _NOBODY],
        ["plan", _NOBODY],
    ],
)
def test_a_home_folder_that_is_not_there(words: list[str], tmp_path: Path, qwenctl: Callable[..., Any]) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n', encoding="utf-8")
    code, stdout, stderr = qwenctl(*(word.format(folder=tmp_path, file=tmp_path / "in.jsonl") for word in words))
    assert (code in (1, 2), stdout) == (True, "")
    assert stderr.splitlines()[0].startswith("error: ")
