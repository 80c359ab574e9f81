"""`qwenctl worker`: this machine's devices for models that run on another one."""

from __future__ import annotations

import ipaddress
import json
import signal
from contextlib import closing
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

import click

from qwenctl.cli.command import Command
from qwenctl.cli.device_options import DeviceNames
from qwenctl.cli.options import ByteCount, output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.errors import InvalidRequest
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.worker_front import WorkerFront
from qwenctl.services.worker_process import WorkerJob
from qwenctl.settings import Settings
from qwenctl.units import MIB, format_memory


class Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT; port 0 is a free one."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Return (host, port)."""
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            self.fail(f"{value!r} is no address; write HOST:PORT, as in 127.0.0.1:50052", param, ctx)
        return host, int(port)


@click.command(
    "worker",
    cls=Command,
    examples=[
        "qwenctl worker                                  # then, on this machine: qwenctl run --rpc 127.0.0.1:50052 …",
        "qwenctl worker --devices CUDA0 --memory 20GiB",
        "qwenctl worker --listen 192.168.0.2:50052 --allow-remote",
    ],
)
@click.option(
    "--listen",
    "address",
    type=Address(),
    default="127.0.0.1:50052",
    show_default=True,
    metavar="HOST:PORT",
    help="IPv4 address to listen at; port 0 is a free one.",
)
@click.option(
    "--allow-remote", is_flag=True, help="Let --listen name an address that other machines reach: without a password."
)
@click.option(
    "--devices",
    type=DeviceNames(),
    metavar="NAMES",
    help="Devices to serve: CUDA0,CUDA1, or CPU.  [default: all GPUs, or else the CPU]",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=ByteCount(64 * MIB),
    metavar="SIZE",
    help="Memory that clients are told of, of all devices together: 20GiB.  [default: what is free]",
)
@threads_option
@output_options
def command(
    *,
    address: tuple[str, int],
    allow_remote: bool,
    devices: tuple[str, ...] | None,
    memory_bytes: int | None,
    n_threads: int | None,
    output: Output,
    settings: Settings,
) -> None:
    """Lend this machine's devices to models that run on another.

    `qwenctl run --rpc HOST:PORT` there, `chat` and `batch` put layers on them. One program is served at a time. Both
    sides need the same ggml, which is compared first.

    The address is printed when all is ready. Ctrl-C and SIGTERM end it, with exit code 0.

    The connection has no password and is not encrypted: whoever reaches the address can use this process and read what
    it computes. So it listens on this machine only, unless --allow-remote is given; through `ssh -L
    50052:127.0.0.1:50052 HOST` a worker on HOST is reached as 127.0.0.1:50052, encrypted.
    """
    if devices == ():
        raise InvalidRequest("a worker without devices serves nothing", "leave --devices out")
    host, port = address
    if not _is_loopback(host):
        if not allow_remote:
            what = f"{host} can be reached from other machines, and ggml's RPC has no password and no encryption"
            raise InvalidRequest(what, f"tunnel it: ssh -L {port}:127.0.0.1:{port} HOST; or add --allow-remote")
        output.warning(
            f"whoever reaches {host}:{port} can use this worker and read its memory: no password, no secrecy"
        )
    job = WorkerJob(devices, memory_bytes, n_threads or settings.n_threads or default_n_threads())
    former = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with closing(WorkerFront(host, port, job, output.note)) as front:
            _say_ready(front, job, output)
            front.serve()
    except _Ended:
        output.note("ended")
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _say_ready(front: WorkerFront, job: WorkerJob, output: Output) -> None:
    served = front.process.devices
    if job.memory_bytes is not None and not front.process.bounded:
        output.warning("this build of ggml is not known, so clients are told of all memory and not of --memory")
    if output.json_mode:
        document = {"address": front.address, "rpc": front.process.rpc, "devices": [asdict(one) for one in served]}
        output.line(json.dumps(document))
        return
    for device in served:
        output.note(f"{device.name} ({device.description}): {format_memory(device.free)} for clients")
    output.line(front.address)


class _Ended(BaseException):
    """A signal asked for the end."""


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise _Ended


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
