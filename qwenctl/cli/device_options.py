"""The options that say on which devices a model runs, and what it keeps there: names, shares, cache types, servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from qwenctl.services.engine_options import CacheType

F = TypeVar("F", bound=Callable[..., Any])

NONE = "none"  # of the devices

_KV_TYPES: tuple[str, ...] = get_args(CacheType)


class DeviceNames(click.ParamType[tuple[str, ...]]):
    """Names of devices, separated by commas; `none` alone is none of them."""

    name = "devices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names; an empty one is a usage error."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(","))
        if names == (NONE,):
            return ()
        if not all(names) or NONE in names:
            self.fail(f"{value!r} names no devices; write CUDA0,CUDA1 or {NONE}", param, ctx)
        return names


class Proportions(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas: 3,1."""

    name = "proportions"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers; nonsense is a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            return self.fail(f"{value!r} is not a split; write a number for each device, as in 3,1", param, ctx)


class KvTypes(click.ParamType[tuple[str, str]]):
    """The type of keys and values in the cache: one for both, or two separated by a comma."""

    name = "types"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return (keys, values); a type that the cache cannot have is a usage error."""
        if isinstance(value, tuple):
            return value
        types = [part.strip().lower() for part in value.split(",")]
        if len(types) > 2 or not set(types) <= set(_KV_TYPES):
            self.fail(f"{value!r} is no type of the KV cache; there are {', '.join(_KV_TYPES)}", param, ctx)
        return types[0], types[-1]


class Endpoints(click.ParamType[tuple[str, ...]]):
    """Addresses separated by commas."""

    name = "endpoints"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ARG002
        """Return the addresses; EngineOptions checks them."""
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))


DEVICE_OPTIONS = (
    click.option(
        "--devices",
        type=DeviceNames(),
        metavar="NAMES",
        help="Devices to use, as `qwenctl doctor` names them: CUDA0,RPC0, or none.  [default: all]",
    ),
    click.option(
        "--split",
        type=Proportions(),
        metavar="N,N,…",
        help="Layers of each device, in proportion: 3,1.  [default: by free memory]",
    ),
    click.option(
        "--kv-type",
        "kv_types",
        type=KvTypes(),
        metavar="TYPE",
        default="f16",
        show_default=True,
        help=f"Type of the KV cache: {', '.join(_KV_TYPES)}; two for keys and values, as in q8_0,f16.",
    ),
)


def rpc_option(function: F) -> F:
    """Add `--rpc`, which may be repeated: `rpc` is a tuple of endpoints."""
    return click.option(
        "--rpc",
        multiple=True,
        type=Endpoints(),
        callback=lambda _ctx, _param, values: tuple(endpoint for value in values for endpoint in value),
        metavar="HOST:PORT",
        help="Also use the devices of `qwenctl worker` there, over an unencrypted connection; several with commas, or "
        "repeated.",
    )(function)
