"""`qwenctl doctor`: what this machine has for models, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.device_options import rpc_option
from qwenctl.cli.errors import one_line
from qwenctl.cli.options import model_argument, output_options
from qwenctl.cli.output import Output
from qwenctl.errors import ExitCode, InvalidRequest
from qwenctl.moe.calibration import Calibration
from qwenctl.services.doctor import Diagnosis, Library, Measured, diagnose
from qwenctl.services.model_store import locate_model
from qwenctl.settings import Settings
from qwenctl.units import format_bytes, format_memory


@click.command(
    "doctor",
    cls=Command,
    examples=[
        "qwenctl doctor",
        "qwenctl doctor qwen3-30b --measure      # a few seconds, best while nothing else runs",
        "qwenctl doctor --json | jq '.problems'",
    ],
)
@model_argument
@click.option("--measure", is_flag=True, help="Measure CPU and disk with the experts of MODEL, and remember it.")
@rpc_option
@output_options
def command(*, model: str | None, measure: bool, rpc: tuple[str, ...], output: Output, settings: Settings) -> int:
    """Say what this machine has for models, and what is wrong.

    Shows CPU, the built llama.cpp with a trial of its products, memory and its bound, devices and drivers, the disk
    under the models, what was measured here before, and the environment variables that are in force. The exit code is 1
    if there are problems.

    MODEL is a GGUF file or the name of a converted model, whose experts --measure reads and multiplies.
    """
    if model is not None and not measure:
        raise InvalidRequest(f"{model}: nothing is looked at in a model without --measure", "add --measure")
    path = locate_model(model, settings) if measure else None
    if measure and path is None:
        raise InvalidRequest("--measure needs a model", "name one, or make the demo with: qwenctl run")
    found = diagnose(settings, path, rpc)
    if output.json_mode:
        output.data(_document(found))
    else:
        _show(found, output)
    return ExitCode.FAILED if found.problems else ExitCode.DONE


def _show(found: Diagnosis, output: Output) -> None:
    output.fields([(name, one_line(value)) for name, value in _fields(found)])
    if found.measured is not None:
        _show_measured(found.measured, output)
    if rows := list(_rows(found.calibrations)):
        output.line()
        output.table(("MEASURED EXPERTS", "WAY", "TOKENS", "GMAC/s"), rows, right=(2, 3))
    for problem in found.problems:
        output.line()
        output.line(f"problem: {one_line(problem.what)}")
        output.line(f"what to do: {one_line(problem.fix)}")
    if not found.problems:
        output.line()
        output.line("no problems")


def _fields(found: Diagnosis) -> Iterator[tuple[str, str]]:
    cpu, library, memory = found.cpu, found.library, found.memory
    yield "qwenctl", f"{found.version}, Python {found.python}, {found.system}"
    yield "cpu", f"{cpu.name}, {cpu.architecture}"
    yield "features", " ".join(cpu.features) or "unknown"
    quota = "" if cpu.quota is None else f", time for {cpu.quota:g}"
    yield "cores", f"{cpu.n_usable} may be used{quota}; {cpu.n_threads} threads by default"
    yield "llama.cpp", f"llama-cpp-python {library.release}, ggml {library.version} ({library.commit})"
    yield "built for", " ".join(library.features)
    yield "layouts", _layouts(library)
    yield "offload", library.unknown or "this build is known: experts can be offloaded"
    yield "memory", f"{format_memory(memory.available_bytes)} left of {format_memory(memory.limit_bytes)}"
    yield "bound by", memory.bound_by
    for device in found.devices:
        yield "device", f"{device.name}: {format_memory(device.free_bytes)} of {format_memory(device.total_bytes)} free"
    if not found.devices:
        yield "devices", "no GPU that this build of llama.cpp knows"
    yield "drivers", ", ".join(found.drivers) or "none of a GPU"
    yield "disk", _disk(found)
    yield "models", str(found.settings.models_dir)
    yield "cache", str(found.settings.cache_dir)
    yield "variables", " ".join(f"{name}={value}" for name, value in found.settings.variables.items()) or "none"


def _disk(found: Diagnosis) -> str:
    if found.disk is None:
        return f"no model in {found.settings.models_dir} to read from"
    one, four = (rate / 1e9 for rate in (found.disk.one_bytes_s, found.disk.four_bytes_s))
    cached = "" if found.disk.past_cache else ", from the page cache"
    return f"{one:.2f} GB/s one read at a time, {four:.2f} with four ({found.disk.path.name}{cached})"


def _layouts(library: Library) -> str:
    return ", ".join(f"{one.name} {one.problem or 'right'}" for one in library.layouts)


def _show_measured(measured: Measured, output: Output) -> None:
    output.line()
    if measured.choice is not None:
        way = "a product an expert" if measured.choice.decode_per_expert else "one product of all experts"
        gain = f"{measured.choice.gain:.2f} times stock llama.cpp's speed with everything in memory"
        output.fields([("fastest", f"{measured.choice.layout} layout, {way}: {gain}")])
    reads = f"READS OF {format_bytes(measured.disk.slice_bytes)}"
    rows = [(rate.queue_depth, f"{rate.bytes_s / 1e9:.2f}") for rate in measured.disk.rates]
    output.table((reads, "GB/s"), rows, right=(0, 1))


def _rows(calibrations: tuple[Calibration, ...]) -> Iterator[tuple[str, str, int, str]]:
    for calibration in calibrations:
        for rate in calibration.experts:
            name = f"{calibration.key.shape.partition(' ')[2]} {rate.type}"
            yield name, f"{rate.layout} {rate.operation}", rate.n_tokens, f"{rate.macs_s / 1e9:.1f}"


def _document(found: Diagnosis) -> dict[str, Any]:
    document = asdict(found)
    settings, measured = found.settings, found.measured
    del document["settings"]
    document["folders"] = {"models": str(settings.models_dir), "cache": str(settings.cache_dir)}
    document["variables"] = dict(settings.variables)
    document["memory"].pop("devices")
    if found.disk is not None:
        document["disk"]["path"] = str(found.disk.path)
    if measured is not None:
        document["measured"]["path"] = str(measured.path)
    return document
