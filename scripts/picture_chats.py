#!/usr/bin/env python3
"""Draw the screens of `qwenctl chat`, with a model that says what is written here, for reviewing by looking at them.

    python scripts/picture_chats.py FOLDER      one SVG a screen

Needs what the tests need.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.picture_terminal import picture
from tests.cli.scripted_chat import scripted_chat
from tests.cli.terminal import Terminal

ROOT = Path(__file__).resolve().parents[1]
ENTER, CTRL_O = "\r", "\x0f"
READY = re.compile(r"tokens( of context| \(\d+%[^()]*\))$|^\d+/\d+$", re.MULTILINE).search
THOUGHTS = [
    "<think>\n",
    *(f"Step {number}: the user wants numbers in a table, and I should check them. " for number in range(40)),
    "\n</think>\n\n",
]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>'
MARKDOWN = """# A heading

Some **bold**, *italic* and `inline code`, a [link](https://example.org), 中文字符 and \
\N{PARTY POPPER}, in a paragraph that is long enough to be wrapped on any terminal.

## Numbers

| model | size | 速度 |
|:------|-----:|:----:|
| qwen3-30b | 17.3 GB | 快 |
| qwen3-4b | 2.5 GB | 很快 \N{ROCKET} |

1. First, install it:
   ```bash
   pip install qwenctl  # one line
   ```
2. Then ask:
   - a nested item
     - and a deeper one

> A quote of somebody.

```python
def fib(n: int) -> int:
    '''The n-th number.'''
    return n if n < 2 else fib(n - 1) + fib(n - 2)
```
"""


def main() -> None:
    """Draw all of them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in SCENES.items():
        (folder / f"{name}.svg").write_text(draw(), encoding="utf-8")
        sys.stdout.write(f"{folder / name}.svg\n")


def _scene(
    *turns: tuple[str, str],
    replies: list[list[str]],
    background: str = "dark",
    columns: int = 80,
    rows: int = 40,
    seconds_per_step: float = 0.0,
    tools: tuple[str, ...] = (),
) -> str:
    """Type each of `turns` and wait for what it brings ("": the next input line); return the picture."""
    script = {"replies": replies, "seconds_per_step": seconds_per_step}
    record = Path("/dev/null")
    program = partial(scripted_chat, "terminal", record, None, script, theme=background, tools=tools)
    with Terminal(program, columns=columns, rows=rows) as terminal:
        terminal.wait_for(READY)
        for typed, shown in turns:
            terminal.send(typed)
            if shown:
                terminal.wait_for(shown)
            if not shown or (typed.endswith(ENTER) and not seconds_per_step and not tools):
                terminal.wait_for(READY)
        return picture(terminal.screen, background)


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


ANSWER = [*THOUGHTS, *_words(MARKDOWN)]
SCENES: dict[str, Callable[[], str]] = {
    "first": lambda: _scene(replies=[], rows=12),
    "help": lambda: _scene(("/help" + ENTER, "as text"), replies=[]),
    "thinking": lambda: _scene(("Hello" + ENTER, "Step 5"), replies=[ANSWER], rows=16, seconds_per_step=0.05),
    "thinking-whole": lambda: _scene(
        ("Hello" + ENTER, "Step 5"), (CTRL_O, "Step 9"), replies=[ANSWER], rows=30, seconds_per_step=0.05
    ),
    "answer": lambda: _scene(("Show me everything" + ENTER, "fib(n - 2)"), replies=[ANSWER], rows=48),
    "answer-light": lambda: _scene(
        ("Show me everything" + ENTER, "fib(n - 2)"), replies=[ANSWER], rows=48, background="light"
    ),
    "narrow": lambda: _scene(("Hi" + ENTER, "fib(n"), replies=[ANSWER], rows=60, columns=20),
    "reasoning": lambda: _scene(
        ("Hello" + ENTER, "Fine."), (CTRL_O, "Step 39"), replies=[[*THOUGHTS, "Fine."]], rows=40
    ),
    "context": lambda: _scene(
        ("/system Be brief." + ENTER, "Be brief."),
        ("Hello" + ENTER, "fib(n - 2)"),
        ("/clear" + ENTER, "a new conversation"),
        ("Show me code" + ENTER, "Fine."),
        ("/copy" + ENTER, "sent to the clipboard"),
        ("/context" + ENTER, "left out"),
        replies=[ANSWER, [*THOUGHTS, "Fine. " * 80]],
        rows=30,
    ),
    "tool": lambda: _scene(
        ("What is the weather in Paris?" + ENTER, "always run"),
        replies=[[*THOUGHTS[:4], THOUGHTS[-1], "I look at the sky.\n", CALL]],
        tools=(str(ROOT / "tests/services/tools/weather_tools.py:get_weather"),),
        rows=16,
    ),
    "tool-done": lambda: _scene(
        ("What is the weather in Paris?" + ENTER, "always run"),
        ("y", "It is warm."),
        replies=[[*THOUGHTS[:4], THOUGHTS[-1], "I look at the sky.\n", CALL], ["It is warm."]],
        tools=(str(ROOT / "tests/services/tools/weather_tools.py:get_weather"),),
        rows=20,
    ),
    "errors": lambda: _scene(
        ("/undoo" + ENTER, "did you mean"),
        ("/load nothing.json" + ENTER, "cannot read"),
        ("\x1b[200~" + "x" * 5000 + "\x1b[201~" + ENTER, "holds 4096"),
        replies=[],
        rows=16,
    ),
    "paste": lambda: _scene(
        ("What is this? \x1b[200~" + "a line\r" * 120 + "\x1b[201~", "120 lines"), replies=[], rows=12
    ),
    "full": lambda: _scene(("\x1b[200~" + "x" * 3800 + "\x1b[201~" + ENTER, "Fine."), replies=[["Fine."]], rows=12),
}


if __name__ == "__main__":
    main()
