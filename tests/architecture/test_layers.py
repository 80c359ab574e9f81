"""Imports go down one list of layers; `quant` stands alone; what must never be imported is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.source_tree import ROOT, Import, SourceFile, source_files

# The longest prefix that fits a module says its layer. A file imports from its own layer's package and from lower ones.
LAYERS = {
    "qwenctl": 0,  # __init__: the version
    "qwenctl.errors": 0,
    "qwenctl.units": 0,
    "quant": 1,
    "qwenctl.core": 2,
    "qwenctl.settings": 2,
    "qwenctl.telemetry": 3,
    "qwenctl.moe": 4,
    "qwenctl.planning": 5,
    "qwenctl.services": 6,
    "qwenctl.cli": 7,
    "qwenctl.__main__": 7,
}

# Pickles execute what they load; the others are large, and what they do is done here.
FORBIDDEN = {"torch", "transformers", "tensorflow", "pickle", "dill", "joblib", "shelve", "requests", "safetensors"}

# The table of commands imports each one when it is called, so that `qwenctl --help` stays quick; and the sink asks rich
# for the width of a text only when that text is not ASCII; and jsonschema is loaded where there is a schema, mcp
# where there is an MCP server.
MAY_IMPORT_IN_FUNCTIONS = {
    "qwenctl/cli/main.py",
    "qwenctl/cli/output.py",
    "qwenctl/services/structured/value_check.py",
    "qwenctl/services/tools/tool_sources.py",
}

HEAVY = (
    "numpy",
    "llama_cpp",
    "gguf",
    "rich",
    "jinja2",
    "prompt_toolkit",
    "huggingface_hub",
    "yaml",
    "asyncio",
    "quant",
)


def _layer(module: str) -> int | None:
    """Return the layer of a module of ours, or None for other people's."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in LAYERS and (length > 1 or len(parts) == 1 or prefix == "quant"):
            return LAYERS[prefix]
    if parts[0] == "qwenctl":
        pytest.fail(f"{module} has no layer: add it to LAYERS here and to the README's architecture section")
    return None


def _all_imports() -> Iterator[tuple[SourceFile, Import, str]]:
    """Every import of ours with the words that name it in a failure."""
    for file in source_files():
        for found in file.imports():
            yield file, found, f"{file.name}:{found.line} imports {found.module}"


def test_imports_only_from_lower_layers() -> None:
    upward = []
    for file, found, words in _all_imports():
        own, other = _layer(file.module), _layer(found.module)
        if own is not None and other is not None and other > own:
            upward.append(words)
    assert upward == []


def test_every_module_has_a_layer() -> None:
    assert [file.name for file in source_files() if _layer(file.module) is None] == []


def test_quant_stands_alone() -> None:
    assert [
        words
        for file, found, words in _all_imports()
        if file.name.startswith("quant/") and found.module.split(".")[0] == "qwenctl"
    ] == []


def test_nothing_forbidden_is_imported() -> None:
    assert [words for _, found, words in _all_imports() if found.module.split(".")[0] in FORBIDDEN] == []


def test_imports_are_at_the_top() -> None:
    assert [
        words
        for file, found, words in _all_imports()
        if found.inside_function and file.name not in MAY_IMPORT_IN_FUNCTIONS
    ] == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_command_line_starts_without_heavy_imports(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from qwenctl.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stderr == "[]\n"
    assert run.stdout
