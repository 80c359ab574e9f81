"""`qwenctl pull`: a model from a hub, as it is or converted on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.export_options import export_options, export_request, refuse_export_options
from qwenctl.cli.options import ByteCount, output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.cli.pull_converted import PullAsked, pull_converted
from qwenctl.cli.pull_exported import pull_exported
from qwenctl.cli.pull_progress import pull_bars
from qwenctl.cli.pull_report import plan_document, print_dry_run, print_here, print_pull, say_how_to_run, show_plan
from qwenctl.errors import InvalidRequest
from qwenctl.services.conversion import resolve_output
from qwenctl.services.hub.download import DownloadOptions
from qwenctl.services.hub.hub_access import Hub
from qwenctl.services.hub.model_names import parse_name
from qwenctl.services.hub.pull import pull_files
from qwenctl.services.hub.pull_plan import plan_files, target_folder
from qwenctl.services.hub.resolution import Choice, Wanted, resolve, with_options
from qwenctl.settings import Settings

_LEAST_RATE = 1 << 10


@click.command(
    "pull",
    cls=Command,
    examples=[
        "qwenctl pull qwen3:30b-a3b                          # a short name",
        "qwenctl pull Qwen/Qwen3-8B-GGUF:q4_k_m              # a ready-made file",
        "qwenctl pull Qwen/Qwen3-235B-A22B-Instruct-2507 --quant q4_k_m   # converted while it is fetched",
        "qwenctl pull Qwen/Qwen3-8B --format awq             # for vLLM, exported while it is fetched",
        "qwenctl pull unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q6_K.gguf small.gguf",
        "qwenctl pull Qwen/Qwen3-8B --raw --dry-run          # the checkpoint as it is: what would be fetched",
    ],
)
@click.argument("name", metavar="NAME")
@click.argument("out", metavar="[OUT]", required=False)
@click.option("--quant", metavar="TYPE", help="Type of the weights: q4_k_m, q6_k, …  [default: q4_k_m, or the nearest]")
@click.option("--revision", metavar="REV", help="Branch, tag or commit.  [default: main]")
@click.option(
    "--imatrix",
    metavar="FILE|REPO",
    help="Convert, weighing errors by this importance matrix: a file, or a repository that publishes one.",
)
@export_options
@click.option("--raw", is_flag=True, help="Fetch the checkpoint as it is, into a folder, for `qwenctl convert`.")
@click.option(
    "--limit-rate",
    "bytes_per_s",
    type=ByteCount(_LEAST_RATE),
    metavar="SIZE",
    help="Bytes a second, at most: 10MB.  [default: no limit]",
)
@click.option(
    "--connections",
    "n_connections",
    type=click.IntRange(1, 16),
    default=8,
    show_default=True,
    metavar="N",
    help="Connections at the same time.",
)
@threads_option
@click.option("--force", is_flag=True, help="Replace what has the name of the result.")
@click.option("--restart", is_flag=True, help="Start over instead of resuming an interrupted pull.")
@click.option("--dry-run", is_flag=True, help="Print the plan. Fetch no weights, write nothing.")
@output_options
def command(
    *,
    name: str,
    out: str | None,
    quant: str | None,
    revision: str | None,
    imatrix: str | None,
    format_name: str,
    raw: bool,
    bytes_per_s: int | None,
    n_connections: int,
    n_threads: int | None,
    force: bool,
    restart: bool,
    dry_run: bool,
    output: Output,
    settings: Settings,
    **export: Any,
) -> None:
    """Get a model from a hub.

    NAME is user/repo[:type][@revision], a file's address on the hub, or a short name such as qwen3:30b-a3b. GGUF files
    are fetched as they are; a checkpoint of safetensors is converted while it is fetched, and never rests on the disk.
    OUT is a path that ends in .gguf, or a name among the models; with --format awq or gptq, and with --raw, a folder.
    Without it, a good name is chosen.

    What is already in the Hugging Face cache is used there, not fetched and not copied. Interrupted at any point, the
    same command resumes. Every file is held against the hash that the hub names.

    HF_TOKEN or `hf auth login` open what is gated or private. HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are honoured.
    """
    is_export = format_name != "gguf"
    if raw and (quant or imatrix or is_export):
        raise InvalidRequest("--raw is the checkpoint as it is", "leave --quant, --format and --imatrix out")
    if not is_export:
        refuse_export_options()
    choice = Choice(must_convert=imatrix is not None, export=format_name if is_export else None, as_it_is=raw)
    asked = PullAsked(
        name, out, imatrix, DownloadOptions(n_connections, force, restart), n_threads or settings.n_threads, dry_run
    )
    with Hub(settings, bytes_per_s, output.note) as hub:
        meant = with_options(parse_name(name, settings.hub.endpoint), quant, revision)
        wanted = resolve(meant, choice, hub.repository)
        if wanted.kind == "conversion":
            pull_converted(wanted, asked, hub, settings, output)
        elif wanted.kind == "export":
            pull_exported(wanted, asked, export_request(Path(), format_name, None, **export), hub, output)
        else:
            _fetch(wanted, asked, hub, settings, output)


def _fetch(wanted: Wanted, asked: PullAsked, hub: Hub, settings: Settings, output: Output) -> None:
    """Get files as they are."""
    if wanted.kind == "gguf":
        target = resolve_output(asked.out or wanted.label, settings)
    else:
        target = target_folder(asked.out, wanted)
    plan = plan_files(wanted, target, hub.cache_dir)
    show_plan(plan, output)
    plan.refuse_if_too_large()
    if asked.dry_run:
        print_dry_run(plan_document(plan), plan.target, output)
        return
    if plan.is_done and not asked.download.force:
        print_here(plan.target, wanted, output)
        return
    n_cached_bytes = sum(file.remote.n_bytes for file in plan.files if file.state == "cached")
    with pull_bars(output, n_cached_bytes) as watch:
        result = pull_files(plan, hub.client, asked.name, asked.download, watch)
    if wanted.kind == "gguf":
        say_how_to_run(plan.target, settings, output)
    print_pull(result, wanted, output)
