"""Streaming Markdown: however the text is cut, the screen ends up the same, and nothing of the answer is lost."""

from __future__ import annotations

from itertools import pairwise

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_blocks import BlockSplitter, CodeClose, CodeLine, CodeOpen, Prose
from qwenctl.cli.markdown_stream import MarkdownStream
from qwenctl.cli.terminal_safety import without_controls

ANSWER = """# Title

A **bold** word, `code`, a [link](https://example.org), 中文字符 and 🎉, long enough to be wrapped over some lines.
1. First
   continued
2. Second:
   ```python
   def f(x):
       '''doc
       string'''
       return x + 1
   ```
3. Third

   a paragraph in the item

- a
  - b
- c

| name | value |
|------|------:|
| 中文 | 22 |

> quoted

Raw <b>html</b> and a [1]: reference
```
no language
```
End."""


class Screen:
    def __init__(self, columns=50, rows=20):
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.stream = pyte.Stream(self.screen)
        self.size = (columns, rows)
        self.raw = ""

    def write(self, text):
        self.raw += text
        self.stream.feed(text.replace("\n", "\r\n"))

    @property
    def lines(self):
        above = ["".join(line[column].data for column in range(self.size[0])) for line in self.screen.history.top]
        lines = [line.rstrip() for line in [*above, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def show(pieces, **size):
    screen = Screen(**size)
    stream = MarkdownStream(screen.write, lambda: screen.size)
    for piece in pieces:
        stream.feed(piece)
    stream.finish()
    return screen


EXPECTED = """Title

A bold word, code, a link (https://example.org),
中文字符 and 🎉, long enough to be wrapped over
some lines.
 1 First continued
 2 Second:
   ```python
   def f(x):
       '''doc
       string'''
       return x + 1
   ```
 3 Third

   a paragraph in the item

 • a
    • b
 • c

 name  value
 ───────────
 中文     22

▌ quoted

Raw <b>html</b> and a [1]: reference
```
no language
```
End.""".splitlines()


def test_an_answer_on_the_screen():
    assert show([ANSWER]).lines == EXPECTED


@pytest.mark.parametrize("step", [1, 2, 7])
def test_streaming_ends_with_the_same_screen(step):
    assert show([ANSWER[at : at + step] for at in range(0, len(ANSWER), step)]).lines == EXPECTED


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, len(ANSWER)), max_size=12))
def test_any_cut_ends_with_the_same_screen(cuts):
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[low:high] for low, high in pairwise(edges)]
    assert show(pieces, rows=6).lines == EXPECTED  # also where blocks are taller than the screen


def test_code_is_highlighted_and_prose_is_styled():
    raw = show([ANSWER]).raw
    assert "\x1b[1mbold\x1b[0m" in raw
    assert "\x1b[94" in raw  # the keyword
    assert show(["```python\nx = 1\n"]).lines == ["```python", "x = 1", "```"]  # closed by the end


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    assert without_controls("a\x1b[2J\x07b\x9bc\r\n") == "a[2Jbc\n"
    assert without_controls("a\tb") == "a   b"
    assert "\x1b[2J" not in show(["red \x1b[2Jalert\n"]).raw


def test_a_live_region_rewrites_only_what_changed():
    written = []
    region = LiveRegion(written.append, lambda: (40, 10))
    region.show(["one", "two"])
    region.show(["one", "two three"])
    assert written[-1] == "\rtwo three\x1b[K"
    region.show(["one", "two three", "four"])
    assert written[-1] == "\nfour\x1b[K"
    region.show(["one"])
    assert written[-1] == "\x1b[2A\rone\x1b[K\x1b[J"
    region.commit(["one"])
    assert written[-1] == "\n"
    region.clear()
    assert len(written) == 5


def test_a_live_region_taller_than_the_screen_shows_its_end():
    screen = Screen(rows=5)
    region = LiveRegion(screen.write, lambda: screen.size)
    for last in range(1, 30):
        region.show([f"line {number}" for number in range(last)])
    assert screen.lines == ["line 25", "line 26", "line 27", "line 28"]
    region.commit(["all of it"])
    assert screen.lines == ["all of it"]


def test_blocks_of_a_list_with_code():
    splitter = BlockSplitter()
    blocks = splitter.feed("- a\n- b\n\n  ```py\n  x\n\n  ```\n")
    assert blocks == [
        Prose("- a"),
        Prose("- b"),
        CodeOpen("py", indent=2, blank_before=True),
        CodeLine("x"),
        CodeLine(""),
        CodeClose(),
    ]
    assert splitter.pending is None
    assert splitter.finish() == []


@given(st.text(alphabet="ab `~\n-#1.|>*", max_size=60), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_blocks_do_not_depend_on_the_cuts_and_lose_no_letter(text, step):
    whole, parts = BlockSplitter(), BlockSplitter()
    expected = whole.feed(text) + whole.finish()
    found = [block for at in range(0, len(text), step) for block in parts.feed(text[at : at + step])] + parts.finish()
    assert found == expected
    said = "".join(getattr(block, "source", getattr(block, "text", getattr(block, "language", ""))) for block in found)
    assert sorted(char for char in said if char in "ab") == sorted(char for char in text if char in "ab")
