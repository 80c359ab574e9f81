"""Our source files as the architecture tests see them: paths, parsed trees, imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("quant", "qwenctl")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: `from a.b import c` counts as a.b and, where c is a module of ours, as a.b.c."""

    module: str
    line: int
    inside_function: bool


@dataclass(frozen=True)
class SourceFile:
    """One Python file of ours."""

    path: Path

    @property
    def name(self) -> str:
        """Path from the repository's root: qwenctl/cli/main.py."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self) -> str:
        """Dotted name: qwenctl.cli.main."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return _parse(self.path)

    @property
    def n_lines(self) -> int:
        """Lines of text."""
        return len(self.path.read_text(encoding="utf-8").splitlines())

    def imports(self) -> Iterator[Import]:
        """Every import, at any depth."""
        yield from self._imports_in(self.tree, inside_function=False)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def _imports_in(self, parent: ast.AST, inside_function: bool) -> Iterator[Import]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno, inside_function)
            elif isinstance(node, ast.ImportFrom):
                yield from self._from_imports(node, inside_function)
            else:
                inside = inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from self._imports_in(node, inside)

    def _from_imports(self, node: ast.ImportFrom, inside_function: bool) -> Iterator[Import]:
        package = self.module.split(".") if self.path.stem == "__init__" else self.module.split(".")[:-1]
        kept = package[: len(package) - (node.level - 1)] if node.level else []
        module = ".".join([*kept, *([node.module] if node.module else [])])
        yield Import(module, node.lineno, inside_function)
        for alias in node.names:
            if _is_our_module(f"{module}.{alias.name}"):
                yield Import(f"{module}.{alias.name}", node.lineno, inside_function)


def source_files() -> list[SourceFile]:
    """Return all files of both packages."""
    return [SourceFile(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _is_our_module(name: str) -> bool:
    base = ROOT.joinpath(*name.split("."))
    return name.startswith(PACKAGES) and (base.with_suffix(".py").is_file() or (base / "__init__.py").is_file())
