#!/usr/bin/env python3
"""Measure what streaming Markdown costs: bytes written and lines drawn a token, and CPU time, for kinds of text.

    python scripts/bench_markdown.py [--columns 80] [--rows 24] [--rate 100]

A token is a word or a mark; they come at `--rate` a second on a clock that also counts the time that drawing takes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from qwenctl.cli.markdown_stream import MarkdownStream

_CODE = "    def f{0}(self, x: int) -> str:\n        return f'{{x}} and {0}'  # comment\n\n"
TEXTS = {
    "prose": ("The quick brown fox jumps over the **lazy** dog, and then `code` it. " * 8 + "\n\n") * 3,
    "one long paragraph": "word and another word " * 700,
    "nested list": "".join(f"- item {n} with text\n  - nested {n}\n    - deeper {n}\n" for n in range(30)),
    "table of 60 rows": "| a | b |\n|---|--:|\n" + "".join(f"| row {n} | some text {n} |\n" for n in range(60)),
    "180 lines of code": "```python\n" + "".join(map(_CODE.format, range(60))) + "```\n",
    "one line of code": "```\n" + "x = [1, 2, 3] + " * 200 + "\n```\n",
    "中文": "中文字符和英文 mixed 混合在一起，" * 60,
}


def main() -> None:
    """Measure all of them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--rate", type=float, default=100.0, metavar="TOKENS/S")
    args = parser.parse_args()
    sys.stdout.write(
        f"{'text':<20} {'tokens':>6} {'bytes/token':>11} {'of text':>7} {'lines/token':>11} {'ms/token':>8}\n"
    )
    for name, text in TEXTS.items():
        sys.stdout.write(_row(name, text, (args.columns, args.rows), args.rate))


def _row(name: str, text: str, size: tuple[int, int], rate: float) -> str:
    written: list[str] = []
    tokens = re.findall(r"\s?\w+|[^\w]", text)
    n_fed, started_s = 0, time.process_time()
    stream = MarkdownStream(written.append, lambda: size, clock=lambda: n_fed / rate + time.process_time() - started_s)
    for token in tokens:
        n_fed += 1
        stream.feed(token)
    stream.finish()
    cpu_ms = 1000 * (time.process_time() - started_s) / len(tokens)
    n_bytes, n_lines = len("".join(written).encode()), "".join(written).count("\x1b[K")
    of_text = len(text.encode()) / len(tokens)
    per_token = f"{n_bytes / len(tokens):>11.1f} {of_text:>7.1f} {n_lines / len(tokens):>11.2f} {cpu_ms:>8.2f}"
    return f"{name:<20} {len(tokens):>6} {per_token}\n"


if __name__ == "__main__":
    main()
