"""Options and arguments that several commands share, so that each has the same name and help everywhere.

Decorators, used below `@click.command`. `output_options` also builds the sink and hands it to the command as `output`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from qwenctl.cli.output import Output
from qwenctl.settings import Settings
from qwenctl.units import format_memory, parse_bytes

_MOST_BYTES = 1 << 50
_TIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_TOKEN_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}

F = TypeVar("F", bound=Callable[..., Any])


class TokenCount(click.ParamType[int]):
    """A number of tokens: 4096, 4k for 4 × 1024, or 1M for 1024 × 1024; in any case. At least `least`."""

    name = "tokens"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the tokens that `value` names; too few and nonsense are usage errors."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,10})([km]?)", value.strip().lower(), re.ASCII)
        n_tokens = int(match.group(1)) * _TOKEN_UNITS[match.group(2)] if match else -1
        if not self.least <= n_tokens < 1 << 31:
            self.fail(f"{value!r} is not a number of tokens; write 4096, 4k or 1M", param, ctx)
        return n_tokens


class ByteCount(click.ParamType[int]):
    """A size in memory: 48GiB, 500MiB, 1.5TB; at least `least_bytes`."""

    name = "size"

    def __init__(self, least_bytes: int = 0) -> None:
        self.least_bytes = least_bytes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes that `value` names; nonsense is a usage error."""
        if isinstance(value, int):
            return value
        try:
            n_bytes = parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self.least_bytes <= n_bytes <= _MOST_BYTES:
            least, most = format_memory(self.least_bytes), format_memory(_MOST_BYTES)
            self.fail(f"{value!r} is not between {least} and {most}", param, ctx)
        return n_bytes


class Duration(click.ParamType[float]):
    """A time: 90s, 10m, 2h; a bare number is seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds that `value` names; zero and nonsense are usage errors."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d{1,7}(?:\.\d{1,3})?)([smh]?)", value.strip().lower(), re.ASCII)
        seconds = float(match.group(1)) * _TIME_UNITS[match.group(2)] if match else 0.0
        if not seconds:
            self.fail(f"{value!r} is not a time; write 90s, 10m or 2h", param, ctx)
        return seconds


class AnyCase(click.ParamType[str]):
    """One of `names`, in any mix of upper and lower case; a near miss is answered with the nearest name."""

    def __init__(self, names: Iterable[str], name: str = "name") -> None:
        self.names = tuple(names)
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as the table spells it."""
        for name in self.names:
            if name.lower() == str(value).lower():
                return name
        return self.fail(f"{value!r} is not one of {', '.join(self.names)}", param, ctx)


def output_options(function: F) -> F:
    """Add `--json` and `-q/--quiet`; call the command with `output` and `settings` instead."""

    @click.option("--json", "json_mode", is_flag=True, help="Write one JSON document to standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="No notes and no progress on standard error.")
    @wraps(function)
    def command(*, json_mode: bool, quiet: bool, **kwargs: Any) -> Any:
        settings: Settings = click.get_current_context().obj
        output = Output(json_mode=json_mode, quiet=quiet, plain=settings.plain)
        return function(output=output, settings=settings, **kwargs)

    return cast("F", command)


def quiet_option(function: F) -> F:
    """Add `-q/--quiet` alone; call the command with `output` and `settings` instead. For what has no JSON form."""

    @click.option("-q", "--quiet", is_flag=True, help="No notes and no progress on standard error.")
    @wraps(function)
    def command(*, quiet: bool, **kwargs: Any) -> Any:
        settings: Settings = click.get_current_context().obj
        return function(output=Output(quiet=quiet, plain=settings.plain), settings=settings, **kwargs)

    return cast("F", command)


def output_type_option(names: Iterable[str], default: str = "q4_k_m") -> Callable[[F], F]:
    """Return `--type`, one of `names` (quant.recipe's table) in either case."""
    names = tuple(names)
    return click.option(
        "--type",
        "output_type",
        type=AnyCase(names, "type"),
        default=default,
        show_default=True,
        help=f"Tensor types of the output: {', '.join(names)}.",
    )


def model_argument(function: F) -> F:
    """Add the optional argument MODEL: a GGUF file, a model's name, or nothing for the default or the demo."""
    return click.argument("model", required=False, metavar="[MODEL]")(function)


def threads_option(function: F) -> F:
    """Add `--threads`."""
    return click.option(
        "--threads",
        "n_threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="CPU threads.  [default: QWENCTL_THREADS, or all cores]",
    )(function)


def context_option(function: F) -> F:
    """Add `--ctx`."""
    return click.option(
        "--ctx",
        "n_ctx",
        type=TokenCount(),
        metavar="N",
        help="Tokens that prompt and answer may take together; 32k is 32768.  [default: what the model can, up to 8k]",
    )(function)
