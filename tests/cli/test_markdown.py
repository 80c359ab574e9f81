"""Streaming Markdown: however the text is cut, the screen ends up the same, and nothing of the answer is lost."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_blocks import BlockSplitter, CodeClose, CodeLine, CodeOpen, Prose
from qwenctl.cli.markdown_stream import MarkdownStream
from qwenctl.cli.terminal_safety import without_controls
from tests.cli.reflowing_screen import ReflowingScreen

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


# An emoji of several characters, or a flag: what some terminals draw as one and others as several.
_CLUSTER = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}|.[\ufe0f\U0001f3fb-\U0001f3ff]?(?:\u200d.[\ufe0f]?)+|.[\ufe0f\U0001f3fb-\U0001f3ff]"
)
_MARKS = re.compile("[\u200d\ufe0f]")


class Screen:
    """A terminal of one of two kinds: `joins_emoji` draws a family of emoji as one, else each member by itself."""

    def __init__(self, columns=50, rows=20, *, joins_emoji=False):
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.stream = pyte.Stream(self.screen)
        self.size = (columns, rows)
        self.raw = ""
        self.joins_emoji = joins_emoji

    def write(self, text):
        self.raw += text
        text = _CLUSTER.sub("\N{PARTY POPPER}", text) if self.joins_emoji else _MARKS.sub("", text)
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
    stream = MarkdownStream(screen.write, lambda: screen.size, clock=lambda: 0.0)  # no time passes: all is drawn
    for piece in pieces:
        stream.feed(piece)
    stream.finish()
    return screen


EXPECTED = """Title

A bold word, code, a link (https://example.org),
中文字符 and 🎉, long enough to be wrapped over
some lines.
 1. First continued
 2. Second:
```python
def f(x):
    '''doc
    string'''
    return x + 1
```
 3. Third

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


HARD = """# 家族 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea

\U0001f44d\U0001f3fd A **wide** e\u0301 paragraph:
\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f468\u200d\U0001f469\u200d\U0001f467 and
❤\ufe0f \U0001f3f3\ufe0f\u200d\U0001f308 中文字符很长很长很长很长很长很长很长很长很长
很长 \U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5 end.

- שלום עולם, مرحبا بالعالم, नमस्ते दुनिया
  - \U0001f468\u200d\U0001f469\u200d\U0001f467 nested
    - ไทยภาษา deeper and deeper, until it must be wrapped at any width at all

| \U0001f600 | 名前 |
|---|--:|
| a\U0001f468\u200d\U0001f469\u200d\U0001f467 | 日本 |
| ไทย | e\u0301 |

```python
\tx = "\U0001f468\u200d\U0001f469\u200d\U0001f467 中文" # a line of code that is longer than a narrow terminal is wide
```
The end, \U0001f1e9\U0001f1ea.
"""


@pytest.mark.parametrize("columns", [20, 33, 80, 200])
@pytest.mark.parametrize("joins_emoji", [False, True])
def test_wide_and_joined_characters_break_no_line_on_either_kind_of_terminal(columns, joins_emoji):
    whole = show([HARD], columns=columns, rows=12, joins_emoji=joins_emoji)
    by_character = show(HARD, columns=columns, rows=12, joins_emoji=joins_emoji)
    assert by_character.lines == whole.lines
    drawn = re.sub(r"\s", "", "".join(whole.lines))
    for word in ("家族", "paragraph", "deeper", "until", "名前", "日本", "longer", "wide", "Theend"):
        assert word in drawn
    assert sum("The end" in line for line in whole.lines) == 1


def test_text_that_grows_is_written_as_it_comes():
    screen = show(["word "] * 400, columns=80)
    assert len(screen.raw) < 400 * len("word ") * 1.5  # a line is drawn anew only where it is wrapped
    code = show([f"{char}" for char in "```\n" + "x" * 1000 + "\n```\n"], columns=80)
    assert "".join(code.lines) == "```" + "x" * 1000 + "```"
    assert max(code.raw.count(f"\x1b[{rows}A") for rows in range(1, 20)) < 20


@pytest.mark.parametrize("rows", [5, 12])
def test_a_paragraph_taller_than_the_screen_is_drawn_once(rows):
    said = " ".join(f"word{number}" for number in range(300)) + " *and* **more** `of` it."
    screen = show(re.findall(r"\S+\s?", said), columns=40, rows=rows)
    assert " ".join(screen.lines) == said.replace("*", "").replace("`", "")
    assert len(screen.raw) < 5 * len(said)


@pytest.mark.parametrize("form", ["{} ", "{}\n\n", "- {}\n", "{} {}{}\n"])
@pytest.mark.parametrize("widths", [[50, 60, 79, 100], [20, 40, 80, 120]])
def test_a_terminal_that_is_resized_in_the_middle_loses_no_word(form, widths):
    draw = random.Random(7)
    for _ in range(12):
        screen = ReflowingScreen(80, 24)
        stream = MarkdownStream(screen.write, lambda screen=screen: screen.size, clock=lambda: 0.0)
        words = [f"w{number}" for number in range(200)]
        for number, word in enumerate(words):
            stream.feed(form.format(word, "x" * (number % 90), "\n" * (number % 7 == 0)))
            if draw.random() < 0.03:
                screen.resize(draw.choice(widths))
        stream.finish()
        seen = re.findall(r"w\d+", " ".join(screen.lines))
        assert list(dict.fromkeys(seen)) == words
        # What is unfinished can be pushed off the screen by a terminal that becomes much narrower: it stays there.
        assert seen == words or 20 in widths


def test_a_long_table_costs_little_time():
    clock = iter(range(10**9))
    screen = Screen()
    stream = MarkdownStream(screen.write, lambda: screen.size, clock=lambda: float(next(clock)))  # drawing takes 1 s
    for number in range(200):
        stream.feed(f"| a | {number} |\n" if number else "| a | b |\n|---|---|\n")
    n_drawn = screen.raw.count("\x1b[?2026h")
    stream.finish()
    assert n_drawn < 30
    assert [line.split()[-1] for line in screen.lines[2:]] == [str(number) for number in range(1, 200)]


def test_code_is_highlighted_and_prose_is_styled():
    raw = show([ANSWER]).raw
    assert "\x1b[1mbold\x1b[0m" in raw
    assert "\x1b[94" in raw  # the keyword
    assert show(["```python\nx = 1\n"]).lines == ["```python", "x = 1", "```"]  # closed by the end


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    assert without_controls("a\x1b[2J\x07b\x9bc\r\n") == "a[2Jbc\n"
    assert without_controls("a\tb\u2028c") == "a\tb\nc"
    assert without_controls("a\u202eb\u202c \u2067c\u2069") == "ab c"  # nothing reorders the line
    assert without_controls("\N{MAN}\u200d\N{WOMAN} \u05d0\u200f!") == "\N{MAN}\u200d\N{WOMAN} \u05d0\u200f!"
    assert "\x1b[2J" not in show(["red \x1b[2Jalert\n"]).raw


def test_a_live_region_rewrites_only_what_changed():
    written = []
    region = LiveRegion(written.append, lambda: (40, 10))
    region.show(["one", "two"])
    region.show(["one", "two three"])
    assert written[-1] == " three"
    region.show(["one", "two three", "four"])
    assert written[-1] == "\nfour"
    region.show(["one"])
    assert written[-1] == "\x1b[?2026h\x1b[2A\rone\x1b[K\x1b[J\x1b[?2026l"
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


_OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\d+A|[KJ]|\?2026[hl])|[\r\n]")


@given(
    st.text(
        alphabet="ab`~|*_#-1. \n\t\x1b[]()<>?;m2J0\x07\x08\x0b\x9b\x9d\x90\x85\u2028\u202e\u200d\ufe0f\U0001f468中",
        max_size=80,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_a_model_writes_the_terminal_gets_our_sequences_alone(text):
    raw = show([text[at : at + 3] for at in range(0, len(text), 3)], columns=30, rows=8).raw
    rest = _OURS.sub("", raw)
    assert all(char.isprintable() or char in "\u200d" for char in rest), rest
