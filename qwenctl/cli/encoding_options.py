"""The options of `convert` that say how a GGUF's weights are encoded: types, budget, recipe, importance, quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from quant.codecs.row_encoder import QUALITIES
from quant.recipe import OUTPUT_TYPES
from qwenctl.cli.options import output_type_option
from qwenctl.services.type_choice import TypeRequest, parse_budget

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """What the options say."""

    request: TypeRequest
    imatrix: Path | None


def encoding_options(function: F) -> F:
    """Add the options; call the command with `encoding`, an EncodingOptions, instead."""

    @output_type_option(OUTPUT_TYPES)
    @click.option(
        "--budget",
        metavar="SIZE",
        help="Choose each tensor's type, by measured errors, so that the file is at most this large: 130GB, or 4.5bpw "
        "for bits a weight.",
    )
    @click.option(
        "--recipe",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="With --budget, write the types that it chose to FILE; without, use those in FILE.",
    )
    @click.option(
        "--imatrix",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Weigh errors by this importance matrix, of `qwenctl imatrix` or llama-imatrix.",
    )
    @click.option(
        "--quality",
        type=click.Choice(QUALITIES),
        default="fast",
        show_default=True,
        help="Encoders: fast ones, with less error than llama.cpp's; the best, which search longer; or exactly "
        "llama.cpp's own.",
    )
    @click.option("--exact", is_flag=True, help="The same as --quality exact.")
    @wraps(function)
    def command(
        *,
        output_type: str,
        budget: str | None,
        recipe: Path | None,
        imatrix: Path | None,
        quality: str,
        exact: bool,
        **kwargs: Any,
    ) -> Any:
        context = click.get_current_context()
        if _given(context, "output_type") and (budget is not None or recipe is not None):
            raise click.UsageError("--type cannot be combined with --budget and --recipe, which choose the types")
        if exact and _given(context, "quality") and quality != "exact":
            raise click.UsageError(f"--exact contradicts --quality {quality}")
        try:
            wanted = None if budget is None else parse_budget(budget)
        except ValueError as error:
            raise click.BadParameter(str(error), context, param_hint="--budget") from None
        request = TypeRequest(output_type, wanted, recipe, "exact" if exact else quality)
        return function(encoding=EncodingOptions(request, imatrix), **kwargs)

    return cast("F", command)


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
