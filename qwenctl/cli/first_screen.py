"""What `qwenctl` says when it is started without a command: this machine, what suits it, what is here, how to start."""

from __future__ import annotations

from collections.abc import Iterator

from qwenctl import __version__
from qwenctl.cli.errors import one_line
from qwenctl.cli.output import Output
from qwenctl.planning.first_advice import Verdict
from qwenctl.services.first_look import FirstLook, first_look
from qwenctl.settings import Settings
from qwenctl.units import counted, format_bytes, format_memory

_N_MODELS = 6
_MARK = "*"


def show_first_screen(settings: Settings) -> None:
    """Write the screen to standard output."""
    output = Output(plain=settings.plain)
    look = first_look(settings)
    output.line(f"qwenctl {__version__}: Qwen3-class models on the machine you have")
    output.line()
    output.fields([(label, one_line(text)) for label, text in _machine(look)])
    output.line()
    rows = [_row(one, is_best=one is look.best) for one in look.verdicts]
    output.table(("", "model", "type", "size", "lies in", "answers, about"), rows, right=(3, 5))
    output.line()
    steps = list(_steps(look))
    width = max(len(command) for command, _ in steps)
    for command, about in steps:
        output.line(f"  {command:<{width}}  {about}")
    output.line()
    rates = "measured here" if look.is_measured else "assumed: qwenctl doctor MODEL --measure measures this machine"
    output.note(f"speeds are estimates, the processor's rate {rates}")


def _machine(look: FirstLook) -> Iterator[tuple[str, str]]:
    yield "processor", f"{look.cpu}, {counted(look.n_threads, 'thread')}"
    yield "memory", f"{format_memory(look.ram_free_bytes)} free of {format_memory(look.ram_bytes)}"
    for card in look.cards:
        yield "GPU", f"{card.name}, {format_memory(card.free_bytes)} free of {format_memory(card.total_bytes)}"
    if look.cards and not look.uses_cards:
        yield "", "not used: llama.cpp was built without it; CMAKE_ARGS=-DGGML_CUDA=ON make setup builds it again"
    if not look.cards:
        yield "GPU", "none found"
    if look.disk_free_bytes is not None:
        yield "disk", f"{format_bytes(look.disk_free_bytes)} free for models"
    yield "models here", _models(look)


def _models(look: FirstLook) -> str:
    shown = [f"{name} (default)" if name == look.default else name for name in look.models[:_N_MODELS]]
    more = len(look.models) - len(shown)
    names = [*shown, *([f"{more} more"] if more > 0 else [])]
    return ", ".join(names) or "only the bundled demo, for trying things out"


def _row(verdict: Verdict, *, is_best: bool) -> tuple[str, ...]:
    if verdict.where == "nowhere":
        return ("", verdict.model.name, verdict.quant, format_bytes(verdict.file_bytes), "does not fit", "")
    rate = "see qwenctl plan" if verdict.tokens_s is None else f"{_number(verdict.tokens_s)} tokens/s"
    mark = _MARK if is_best else ""
    return (mark, verdict.model.name, verdict.quant, format_bytes(verdict.file_bytes), verdict.where, rate)


def _number(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def _steps(look: FirstLook) -> Iterator[tuple[str, str]]:
    """Yield commands to type next, with what they do."""
    best = look.best
    name = f"{best.model.name}:{best.quant}"
    if look.models:
        answers = look.default or look.models[0]
        yield ("qwenctl chat" if look.default else f"qwenctl chat {answers}"), f"talk with {answers}"
    else:
        yield 'qwenctl run "Why is the sky blue?"', "at once, with the bundled demo"
    enough = look.disk_free_bytes is None or look.disk_free_bytes > best.file_bytes
    short = "" if enough else ": the disk has no room"
    yield f"qwenctl pull {name}", f"get the model marked {_MARK}, {format_bytes(best.file_bytes)}{short}"
    yield f"qwenctl chat {name}", "then talk with it"
    yield f"qwenctl plan {best.model.name}", "where it would lie, and how fast"
    yield "qwenctl serve", "a chat page and an API, on this machine alone"
    yield "qwenctl --help", "all commands"
