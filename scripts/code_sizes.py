"""Print how long our files and functions are: `make sizes`. The limits are in tests/architecture/test_habits.py."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print one line a tree, and the longest of each kind."""
    print(f"{'':10}{'files':>6}{'lines':>8}{'median':>8}{'longest':>9}   functions: nine in ten have at most … lines")
    for tree in ("quant", "qwenctl", "tests", "scripts"):
        lengths: dict[str, int] = {}
        functions: dict[str, int] = {}
        for path in sorted((ROOT / tree).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            lengths[str(path.relative_to(ROOT))] = len(text.splitlines())
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    name = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                    functions[name] = (node.end_lineno or node.lineno) - node.lineno + 1
        if not functions:
            continue
        longest_file, longest_function = (
            max(lengths, key=lengths.__getitem__),
            max(functions, key=functions.__getitem__),
        )
        ninth = quantiles([*functions.values(), 0], n=10)[8]
        print(
            f"{tree:10}{len(lengths):6}{sum(lengths.values()):8}{median(lengths.values()):8.0f}"
            f"{lengths[longest_file]:9}   {ninth:.0f}; longest {functions[longest_function]} ({longest_function})"
        )


if __name__ == "__main__":
    main()
