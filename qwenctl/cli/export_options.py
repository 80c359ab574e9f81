"""The options of `qwenctl convert` that belong to AWQ and GPTQ, and which of them contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from quant.codecs.int4_search import GROUP_SIZES
from quant.export_plan import MAX_SHARD_BYTES
from qwenctl.cli.options import ByteCount
from qwenctl.errors import InvalidRequest
from qwenctl.services.safetensors_export import ExportRequest, FormatName

FORMATS = ("gguf", "awq", "gptq")
_LEAST_SHARD_BYTES = 1 << 20

_GGUF_ONLY = (
    ("output_type", "--type"),
    ("budget", "--budget"),
    ("recipe", "--recipe"),
    ("quality", "--quality"),
    ("exact", "--exact"),
)

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--format",
        "format_name",
        type=click.Choice(FORMATS),
        default="gguf",
        show_default=True,
        help="A GGUF file, or a folder of 4-bit safetensors for vLLM, SGLang and transformers.",
    ),
    click.option(
        "--hessians",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="AWQ, GPTQ: let the errors of a row make up for each other, by the second moments in FILE.",
    ),
    click.option(
        "--group-size",
        type=click.Choice([str(size) for size in GROUP_SIZES]),
        default="128",
        show_default=True,
        help="AWQ, GPTQ: weights that share a scale.",
    ),
    click.option(
        "--shard-size",
        "max_shard_bytes",
        type=ByteCount(_LEAST_SHARD_BYTES),
        default=MAX_SHARD_BYTES,
        metavar="SIZE",
        help="AWQ, GPTQ: tensors of one file.  [default: 5GB]",
    ),
)


def export_options(function: F) -> F:
    """Add `--format` and the options of AWQ and GPTQ."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def export_request(
    source: Path,
    format_name: str,
    imatrix: Path | None,
    *,
    hessians: Path | None,
    group_size: str,
    max_shard_bytes: int,
) -> ExportRequest:
    """Return what was asked for.

    Raises:
        InvalidRequest: an option of GGUF's encoders beside another format.
    """
    for name, option in _GGUF_ONLY:
        if _is_given(name):
            raise InvalidRequest(f"{option} is for GGUF; {format_name} has one type", f"leave {option} out")
    return ExportRequest(source, cast("FormatName", format_name), imatrix, hessians, int(group_size), max_shard_bytes)


def refuse_export_options() -> None:
    """Refuse options that mean nothing for GGUF.

    Raises:
        InvalidRequest: one was given.
    """
    for name, option in (
        ("hessians", "--hessians"),
        ("group_size", "--group-size"),
        ("max_shard_bytes", "--shard-size"),
    ):
        if _is_given(name):
            raise InvalidRequest(f"{option} is for AWQ and GPTQ", "add --format awq")


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT
