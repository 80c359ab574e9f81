"""The child that holds a file of the user's functions: describes them, runs them, one line of JSON each way.

    first   {"path": …, "function": name or null}   →  {"tools": [description, …]} | {"error": text}
    then    {"call": name, "arguments": {…}}         →  {"text": …} | {"error": text}

The functions may do what they like: it is the user's code, with the user's rights. What they print is not lost: it is
the result of a function that returns nothing. The child ends when its standard input does. Imports nothing of ours but
its neighbour.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from qwenctl.services.tools.function_schema import describe_function

_MAX_CHARACTERS = 2_000_000  # of one answer: 12 MB at most, where all of them need an escape


def main() -> None:
    """Serve until the parent is gone, whatever a function does at that moment."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(questions, lines), daemon=True).start()
    functions: dict[str, Callable[..., Any]] = {}
    while True:
        question = json.loads(lines.get())
        answer = _load(question, functions) if "path" in question else _call(question, functions)
        answers.write(json.dumps(answer, ensure_ascii=False, default=str) + "\n")
        answers.flush()


def _read(questions: Any, lines: SimpleQueue[str]) -> None:
    for line in questions:
        lines.put(line)
    os._exit(0)  # the parent is gone, and a function may run for ever


def _load(question: dict[str, Any], functions: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    path, wanted = Path(question["path"]), question["function"]
    sys.path.insert(0, str(path.parent))  # what the file imports from its own folder
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = _module(path)
        found = {name: one for name, one in vars(module).items() if _is_own(one, module)}
        if wanted is not None:
            found = {wanted: found[wanted]} if wanted in found else {}
        described = [describe_function(one) for one in found.values()]
    except BaseException as error:  # also SystemExit: nothing that the file does at import may end the child unsaid
        return {"error": _sentence(error, path)}
    if not described:
        return {"error": f"there is no function {wanted}" if wanted else "it defines no function without _"}
    functions.update({tool["name"]: one for tool, one in zip(described, found.values(), strict=True)})
    return {"tools": described}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _is_own(value: Any, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_")


def _call(question: dict[str, Any], functions: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    printed = io.StringIO()
    function = functions[question["call"]]
    try:
        with contextlib.redirect_stdout(printed):
            value = function(**question["arguments"])
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except BaseException as error:
        return {"error": _sentence(error, Path(inspect.getfile(function)))}
    return {"text": (printed.getvalue() if value is None else text)[:_MAX_CHARACTERS]}


def _sentence(error: BaseException, path: Path) -> str:
    """What was raised, and the last line of the user's own file that it came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" (line {lines[-1]} of {path.name})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"[:1000]
