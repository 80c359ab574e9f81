"""From MODEL on the command line to its file, and to a model that can be talked to: for `run`, `chat` and `batch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from qwenctl.cli.interrupt import die_on_interrupt
from qwenctl.cli.late_status import LateStatus
from qwenctl.cli.output import Output
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine import Engine
from qwenctl.services.engine_opening import open_engine
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.engine_process import EngineProcess
from qwenctl.services.generation import ChatModel
from qwenctl.services.load_trial import try_load
from qwenctl.services.model_store import locate_model
from qwenctl.services.template_process import WaitingChild
from qwenctl.settings import Settings


def find_model(name: str | None, settings: Settings, output: Output) -> Path:
    """Return MODEL's file, the demo's made first where nothing is named, once llama.cpp is known to load it.

    Raises:
        ModelNotFound: no such model.
        ModelLoadFailed: llama.cpp refused it.
    """
    path = locate_model(name, settings)
    if path is None:
        path = Path(import_module("qwenctl.cli.first_demo").make_demo(settings, output))
    try_load(path, settings)
    return path


@contextmanager
def open_model(name: str | None, options: EngineOptions, settings: Settings, output: Output) -> Iterator[ChatModel]:
    """Find MODEL, load it (in a child process first, if it is new here), and close it at the end.

    Says where the experts of a Mixture-of-Experts model are, unless all are in memory without anybody having asked, and
    what of a model is on which device where it is not all on one.

    Raises:
        ModelNotFound: no such model.
        ModelLoadFailed: llama.cpp refused it.
    """
    path = find_model(name, settings, output)
    with closing(WaitingChild()) as waiting:
        with die_on_interrupt():
            opened = load_engine(path, options, settings)
        with _closing(opened, output) as engine, closing(ChatModel(engine, waiting=waiting)) as model:
            report_placement(engine, options, output)
            yield model


@contextmanager
def _closing(engine: Engine | EngineProcess, output: Output) -> Iterator[Engine | EngineProcess]:
    """Close the engine at the end; what takes time then is the writing of a long prompt to the disk."""
    try:
        yield engine
    finally:
        with LateStatus(output.status, lambda: "keeping the prompt for the next question · Ctrl-C skips it"):
            engine.close()


def load_engine(path: Path, options: EngineOptions, settings: Settings) -> Engine | EngineProcess:
    """Load a model's file; raises as `open_engine`."""
    return open_engine(path, replace(options, offload=replace(options.offload, calibration_dir=settings.cache_dir)))


def report_placement(engine: Engine | EngineProcess, options: EngineOptions, output: Output) -> None:
    """Say what could not be done as it should, and where the model is, as far as that is worth saying."""
    for text in engine.warnings:
        output.warning(text)
    if (placement := _worth_saying(engine, options)) is not None:
        output.note(placement)


def _worth_saying(engine: Engine | EngineProcess, options: EngineOptions) -> str | None:
    """Return where the model is, None if all of its experts are in memory and nobody asked."""
    stats = engine.offload_stats()
    if stats is None:
        return engine.placement
    asked = options.offload != OffloadOptions()
    return engine.placement if asked or not stats["placement"]["resident"] else None
