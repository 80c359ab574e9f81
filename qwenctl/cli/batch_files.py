"""The model and the input file of `qwenctl batch`, opened."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from qwenctl.cli.open_model import open_model
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import STDIN
from qwenctl.errors import InvalidRequest
from qwenctl.services.batch import WorkerElsewhere
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import ChatModel
from qwenctl.services.server_choice import ServerChoice
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings


def check_input(in_file: str) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises:
        InvalidRequest: there is nothing to read.
    """
    if in_file == STDIN and sys.stdin.isatty():
        raise InvalidRequest("standard input is a terminal", "pipe the lines in, or name a file")
    if in_file != STDIN and not typed_path(in_file).is_file():
        raise InvalidRequest(f"no file {in_file}", "it holds one JSON object a line: qwenctl batch --help")


def find_workers(
    choice: ServerChoice, parallel: int | None, settings: Settings, output: Output
) -> list[WorkerElsewhere]:
    """Look for the servers; without any, the network stays out of it, even urllib3, which asks for a socket at once."""
    if not choice.addresses:
        return []
    find_servers = import_module("qwenctl.services.batch_servers").find_servers
    found: list[WorkerElsewhere] = find_servers(choice, settings.network, parallel, output.warning)
    return found


@contextmanager
def opened_model(
    name: str | None, options: EngineOptions, settings: Settings, output: Output, *, optional: bool
) -> Iterator[ChatModel | None]:
    """Open MODEL; None where none is named and it is `optional`."""
    if name is None and optional:
        yield None
        return
    with open_model(name, options, settings, output) as model:
        yield model


@contextmanager
def input_path(in_file: str) -> Iterator[Path]:
    """Return the input as a file that can be read twice: what is piped in is written to a temporary one."""
    if in_file != STDIN:
        yield typed_path(in_file)
        return
    with tempfile.NamedTemporaryFile(prefix="qwenctl-batch-", suffix=".jsonl") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)
