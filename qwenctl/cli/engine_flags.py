"""The options that say how a model is opened, the same for `run`, `chat` and `batch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

import click

from qwenctl.cli.device_options import DEVICE_OPTIONS, rpc_option
from qwenctl.cli.options import ByteCount, context_option, threads_option
from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadMode, OffloadOptions
from qwenctl.services.engine_options import CacheType, EngineOptions
from qwenctl.services.prefix_cache.options import FOLDER_NAME, PrefixCacheOptions
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings
from qwenctl.units import MIB

F = TypeVar("F", bound=Callable[..., Any])


def engine_flags(function: F) -> F:
    """Add the options and call the command with `engine`, its `EngineOptions`."""

    @wraps(function)
    def command(
        *,
        n_ctx: int | None,
        n_threads: int | None,
        rpc: tuple[str, ...],
        offload: OffloadMode,
        ram_bytes: int | None,
        vram_bytes: int | None,
        trace_file: str | None,
        devices: tuple[str, ...] | None,
        split: tuple[float, ...] | None,
        kv_types: tuple[CacheType, CacheType],
        **kwargs: Any,
    ) -> Any:
        settings: Settings = click.get_current_context().obj
        engine = EngineOptions(
            n_ctx=n_ctx,
            n_threads=n_threads or settings.n_threads,
            cache_type_k=kv_types[0],
            cache_type_v=kv_types[1],
            rpc=rpc,
            devices=devices,
            split=split,
            trace_file=None if trace_file is None else str(typed_path(trace_file)),
            offload=_offload(offload, ram_bytes, vram_bytes),
        )
        return function(engine=engine, **kwargs)

    for option in reversed(_options()):
        option(command)
    return cast("F", command)


def prompt_cache_option(function: F) -> F:
    """Add `--prompt-cache`, below `engine_flags`; call the command with the prompt cache in its `engine`."""

    @click.option(
        "--prompt-cache/--no-prompt-cache",
        default=None,
        help="Use and keep computed prompts on disk, or do not.  [default: QWENCTL_PREFIX_CACHE, or do]",
    )
    @wraps(function)
    def command(*, prompt_cache: bool | None, engine: EngineOptions, **kwargs: Any) -> Any:
        settings: Settings = click.get_current_context().obj
        if settings.prefix_cache_bytes != 0 if prompt_cache is None else prompt_cache:
            folder = settings.cache_dir / FOLDER_NAME
            engine = replace(engine, prefix_cache=PrefixCacheOptions(folder, settings.prefix_cache_bytes or None))
        return function(engine=engine, **kwargs)

    return cast("F", command)


def _offload(mode: OffloadMode, ram_bytes: int | None, vram_bytes: int | None) -> OffloadOptions:
    for name, value in (("--ram", ram_bytes), ("--vram", vram_bytes)):
        if mode == "off" and value is not None:
            raise InvalidRequest(f"{name} and --offload off exclude each other", "leave one of them out")
    return OffloadOptions(mode, ram_bytes, vram_bytes)


def _options() -> list[Callable[[F], F]]:
    return [
        context_option,
        threads_option,
        click.option(
            "--ram",
            "ram_bytes",
            type=ByteCount(16 * MIB),
            metavar="SIZE",
            help="Memory that a Mixture-of-Experts model may take in all: 48GiB.  [default: what is available]",
        ),
        click.option(
            "--vram",
            "vram_bytes",
            type=ByteCount(),
            metavar="SIZE",
            help="Memory that it may take of all GPUs together: 20GiB.  [default: what is free]",
        ),
        click.option(
            "--offload",
            type=click.Choice(["auto", "off", "on"]),
            default="auto",
            show_default=True,
            help="Keep the experts in use in memory and read the others from disk: where that pays, never, or always.",
        ),
        click.option(
            "--trace", "trace_file", metavar="FILE", help="Record in FILE which experts each token is sent to."
        ),
        *DEVICE_OPTIONS,
        rpc_option,
    ]
