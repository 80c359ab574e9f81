"""Habits that keep files readable, as far as a program can check them: lengths, names, docstrings, environment."""

from __future__ import annotations

import ast

from tests.architecture.source_tree import source_files

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # docstring and signature included
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

# The environment is read in one place, so that what can be configured is seen in one place; main hands it over.
READS_THE_ENVIRONMENT = {"qwenctl/settings.py", "qwenctl/cli/main.py"}


def test_files_are_short() -> None:
    assert [f"{file.name}: {file.n_lines} lines" for file in source_files() if file.n_lines > MAX_FILE_LINES] == []


def test_functions_are_short() -> None:
    assert [
        f"{file.name}:{function.lineno} {function.name}: {length} lines"
        for file in source_files()
        for function in file.functions()
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ] == []


def test_every_module_says_what_it_holds() -> None:
    assert [file.name for file in source_files() if not ast.get_docstring(file.tree)] == []


def test_names_say_what_a_file_holds() -> None:
    assert [file.name for file in source_files() if VAGUE_NAMES & set(file.module.split("."))] == []


def test_libraries_do_not_print() -> None:
    assert [
        f"{file.name}:{node.lineno}"
        for file in source_files()
        if file.name.startswith(("quant/", "qwenctl/services/"))
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ] == []


def test_the_environment_is_read_in_one_place() -> None:
    assert [
        f"{file.name}:{line}"
        for file in source_files()
        if file.name not in READS_THE_ENVIRONMENT
        for line in _environment_reads(file.tree)
    ] == []


def _environment_reads(tree: ast.AST) -> list[int]:
    """Return the lines that name os.environ or os.getenv; setting a variable for native code is no reading."""
    stores = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb") and id(node) not in stores
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
