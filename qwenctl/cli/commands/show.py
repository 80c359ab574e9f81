"""`qwenctl show`: what a model file or a checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.errors import one_line
from qwenctl.cli.families_table import print_families
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.model_description import ModelDescription, TemplateDescription, describe
from qwenctl.services.model_store import find_model
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings
from qwenctl.units import format_bytes, format_count

_THINKING = {
    "none": "does not think",
    "hybrid": "thinking can be switched",
    "always": "always thinks",
    "unknown": "cannot be rendered",
}


@click.command(
    "show",
    cls=Command,
    examples=[
        "qwenctl show qwen3-30b                  # a converted model",
        "qwenctl show model.gguf --json",
        "qwenctl show Qwen3-30B-A3B              # a checkpoint that is not converted yet",
    ],
)
@click.argument("model", metavar="FILE")
@output_options
def command(*, model: str, output: Output, settings: Settings) -> None:
    """Say what a GGUF file holds.

    FILE is a GGUF file, a converted model's name, a checkpoint's folder or a safetensors file. Only headers are read.
    """
    described = describe(find_model(model, settings) or typed_path(model))
    if output.json_mode:
        output.data(_document(described))
        return
    output.fields([(name, one_line(value)) for name, value in _fields(described) if value])
    output.line()
    print_families(described.families, output)


def _fields(described: ModelDescription) -> list[tuple[str, str]]:
    """Return names and values; an empty value is not to be printed."""
    parts = f" in {described.n_files} files" if described.n_files > 1 else ""
    return [
        ("name", described.name or ""),
        ("kind", described.kind),
        ("architecture", described.architecture or ""),
        ("type", described.file_type or ""),
        ("size", f"{format_bytes(described.n_bytes)}{parts}, {described.bits_per_weight:.2f} bits a weight"),
        ("weights", _weights(described)),
        ("layers", _layers(described)),
        (
            "experts",
            f"{described.n_experts}, of which {described.n_experts_used} a token" if described.n_experts else "",
        ),
        ("context", f"{described.n_ctx_train:,} tokens" if described.n_ctx_train else ""),
        ("rope", described.rope or ""),
        ("vocabulary", f"{described.n_vocab:,} tokens ({described.tokenizer})" if described.n_vocab else ""),
        ("chat template", _template(described.template) if described.architecture else ""),
        ("sampling", ", ".join(f"{name} {value:g}" for name, value in (described.sampling or {}).items())),
        ("licence", described.license or ""),
    ]


def _weights(described: ModelDescription) -> str:
    total = format_count(described.n_weights)
    active = described.n_weights_active
    return total if active in (None, described.n_weights) else f"{total}, {format_count(active or 0)} active"


def _layers(described: ModelDescription) -> str:
    if described.n_layers is None:
        return ""
    heads = f", {described.n_heads} heads ({described.n_kv_heads} for keys and values)" if described.n_heads else ""
    return f"{described.n_layers}, width {described.n_embd}{heads}"


def _template(template: TemplateDescription | None) -> str:
    if template is None:
        return "none"
    words = [_THINKING[template.thinking], "tools" if template.tools else "no tools"]
    return template.problem or ", ".join(words)


def _document(described: ModelDescription) -> dict[str, Any]:
    return {
        **asdict(described),
        "path": str(described.path),
        "bits_per_weight": round(described.bits_per_weight, 4),
        "sampling": {name: round(value, 6) for name, value in (described.sampling or {}).items()},
    }
