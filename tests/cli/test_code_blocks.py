"""The code of an answer, exactly as the model wrote it."""

from __future__ import annotations

import pytest

from qwenctl.cli.code_blocks import CodeBlock, FirstCodeBlock, code_blocks

ANSWER = "Do this:\n\n- x\n  ```py\n  if a:\n  \tb()\n\n  ```\nor\n~~~\n```\n~~~\n"


def test_blocks_are_what_stands_between_the_fences():
    assert code_blocks(ANSWER) == [CodeBlock("py", "if a:\n\tb()\n\n"), CodeBlock("", "```\n")]
    assert code_blocks("no code") == []
    assert code_blocks("```sh\nls") == [CodeBlock("sh", "ls\n")]  # cut off


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_first_block_streams(step):
    first = FirstCodeBlock()
    pieces = [first.feed(ANSWER[at : at + step]) for at in range(0, len(ANSWER), step)]
    assert "".join([*pieces, first.finish()]) == "if a:\n\tb()\n\n"
    assert first.begun
    nothing = FirstCodeBlock()
    assert nothing.feed("no `code`") + nothing.finish() == ""
    assert not nothing.begun
