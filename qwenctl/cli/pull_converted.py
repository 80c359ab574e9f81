"""Runs a pull whose weights are converted while they are fetched: plan, progress, result and record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quant.errors import OutputExists
from quant.stream_run import StreamOptions
from qwenctl.cli.conversion_output import print_conversion
from qwenctl.cli.output import Output
from qwenctl.cli.pull_progress import streamed_bars
from qwenctl.cli.pull_report import conversion_document, print_dry_run, print_here, say_how_to_run, show_conversion_plan
from qwenctl.services.conversion import resolve_output
from qwenctl.services.hub.download import DownloadOptions
from qwenctl.services.hub.hub_access import Hub
from qwenctl.services.hub.pull import make_origin, record_sources
from qwenctl.services.hub.pull_conversion import (
    imatrix_file,
    is_converted_already,
    open_checkpoint_on_hub,
    small_files,
)
from qwenctl.services.hub.resolution import Wanted
from qwenctl.services.machine_limits import usable_cores
from qwenctl.services.model_origin import write_origin
from qwenctl.services.remote_conversion import RemotePlan, convert_remote, plan_remote
from qwenctl.services.type_choice import TypeRequest
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


@dataclass(frozen=True, slots=True)
class PullAsked:
    """What was typed of a pull, beyond what decides which files are meant."""

    name: str
    out: str | None
    imatrix: str | None
    download: DownloadOptions
    n_threads: int | None
    dry_run: bool

    @property
    def stream_options(self) -> StreamOptions:
        """How weights are worked on while they are fetched."""
        download = self.download
        n_threads = self.n_threads or usable_cores()
        return StreamOptions(n_threads, download.n_connections, force=download.force, restart=download.restart)


def pull_converted(wanted: Wanted, asked: PullAsked, hub: Hub, settings: Settings, output: Output) -> None:
    """Convert a checkpoint to GGUF while it is fetched, or print what would be; the path goes to standard output.

    Raises:
        OutputExists: something has the name, and --force was not given.
        QwenctlError, QuantError: as the services do.
        KeyboardInterrupt: what is done is kept.
    """
    target = resolve_output(asked.out or wanted.label, settings)
    if is_there(wanted, asked, target, output):
        return
    with small_files(target, write=not asked.dry_run) as folder:
        planned = _plan(wanted, asked, target, folder, hub)
        show_conversion_plan(wanted, planned, target, output)
        if asked.dry_run:
            print_dry_run(conversion_document(wanted, planned, target), target, output)
            return
        with streamed_bars(output, str(wanted.quant)) as show:
            result = convert_remote(planned, target, asked.stream_options, show)
        record(wanted, asked, target)
    say_how_to_run(target, settings, output)
    print_conversion(result, f"{result.output_type}: {format_bytes(result.n_bytes)}", output)


def is_there(wanted: Wanted, asked: PullAsked, target: Path, output: Output) -> bool:
    """Say so, and return True, if an earlier pull has left exactly this.

    Raises:
        OutputExists: something else has the name, and --force was not given.
    """
    if asked.download.force:
        return False
    if is_converted_already(wanted, target, asked.imatrix):
        print_here(target, wanted, output)
        return True
    if target.exists():
        raise OutputExists(f"{target} is there already", "--force replaces it; OUT gives the new one another name")
    return False


def record(wanted: Wanted, asked: PullAsked, target: Path) -> None:
    """Write down beside the output what it was made from."""
    sources, made = record_sources(wanted.repository), wanted.quant
    origin = make_origin(asked.name, wanted.repository, sources=sources, converted_to=made, imatrix=asked.imatrix)
    write_origin(target, origin)


def _plan(wanted: Wanted, asked: PullAsked, target: Path, folder: Path, hub: Hub) -> RemotePlan:
    """Fetch everything but weights, and plan."""
    checkpoint = open_checkpoint_on_hub(wanted, folder, hub)
    return plan_remote(
        checkpoint,
        target,
        TypeRequest(str(wanted.quant)),
        imatrix_file(asked.imatrix, hub, folder) if asked.imatrix else None,
        n_threads=asked.n_threads,
        n_connections=asked.download.n_connections,
    )
