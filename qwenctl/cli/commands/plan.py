"""`qwenctl plan`: what fits a machine, how fast it will be, and the command that runs it."""

from __future__ import annotations

from typing import get_args

import click

from qwenctl.cli.command import Command
from qwenctl.cli.device_options import rpc_option
from qwenctl.cli.options import TokenCount, output_options
from qwenctl.cli.output import Output
from qwenctl.cli.plan_view import comparison_document, document, print_advice, print_comparison
from qwenctl.errors import DoesNotFit, ExitCode, InvalidRequest
from qwenctl.planning.placement import ContextRequest
from qwenctl.services.engine_options import MAX_PARALLEL, CacheType
from qwenctl.services.plan_source import find_source
from qwenctl.services.planner import Planner
from qwenctl.settings import Settings


@click.command(
    "plan",
    cls=Command,
    examples=[
        "qwenctl plan qwen3-30b                                  # a converted model, on this machine",
        "qwenctl plan Qwen/Qwen3-235B-A22B-Instruct-2507         # before a byte of weights is fetched",
        'qwenctl plan qwen3:235b-a22b --machine "4x24GiB,128GiB ram,7GB/s disk" --ctx 128k',
        "qwenctl plan qwen3:30b-a3b --compare --machine laptop-16 --machine 4090-128",
        "qwenctl plan ~/checkpoints/Qwen3-8B --quant q6_k --json",
    ],
)
@click.argument("model", metavar="MODEL")
@click.option(
    "--machine",
    "machines",
    multiple=True,
    metavar="TEXT",
    help='Another machine: "4x24GiB,128GiB ram,7GB/s disk", "RTX 4090,128GiB ddr5,nvme4", or a name such as 2xa100, '
    "8xh100, 4x4090, 4090-128, 3060-64, desktop-64, laptop-16; may be repeated with --compare.  [default: this one]",
)
@click.option(
    "--ctx",
    "n_ctx",
    type=TokenCount(),
    default="32k",
    show_default=True,
    metavar="N",
    help="Tokens that prompt and answer may take together.",
)
@click.option(
    "--parallel",
    "n_parallel",
    type=click.IntRange(1, MAX_PARALLEL),
    default=1,
    show_default=True,
    metavar="N",
    help="Sequences computed at the same time, each with its own context.",
)
@click.option(
    "--kv-type",
    type=click.Choice(get_args(CacheType)),
    default="f16",
    show_default=True,
    help="Type of the KV cache.",
)
@click.option(
    "--quant",
    "quants",
    multiple=True,
    metavar="TYPE",
    help="Type of the file; may be repeated with --compare.  [default: the best that fits]",
)
@click.option("--compare", is_flag=True, help="One line for each machine and type.")
@rpc_option
@output_options
def command(
    *,
    model: str,
    machines: tuple[str, ...],
    n_ctx: int,
    n_parallel: int,
    kv_type: str,
    quants: tuple[str, ...],
    compare: bool,
    rpc: tuple[str, ...],
    output: Output,
    settings: Settings,
) -> int:
    """Say what fits a machine, how fast, and how to run it.

    MODEL is a GGUF file, a converted model's name, a checkpoint's folder or its config.json; or on a hub a repository
    (user/repo[:type]) or a short name, of which headers and configuration alone are fetched.

    Speeds are estimates: the band that is given with them holds as a rule. Exits 3 if the model does not fit.
    """
    if not compare and (len(machines) > 1 or len(quants) > 1):
        raise InvalidRequest("several machines or types need --compare", "add --compare")
    planner = Planner(find_source(model, quants[0] if len(quants) == 1 else None, settings), settings, rpc)
    request = ContextRequest(n_ctx, n_parallel, kv_type)
    if not compare:
        advice = planner.advise(next(iter(machines), None), next(iter(quants), None), request)
        if output.json_mode:
            output.data(document(advice))
        else:
            print_advice(advice, output)
        return ExitCode.DONE
    found = list(planner.compare(machines or (None,), quants, request))
    if output.json_mode:
        output.data(comparison_document(found))
    else:
        print_comparison(found, output)
    if all(one.advice is None for one in found):
        raise DoesNotFit("none of these fits", "take a smaller context, or a KV cache of q8_0 with --kv-type")
    return ExitCode.DONE
