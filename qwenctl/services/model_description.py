"""Say what a model file or a checkpoint holds, from headers and metadata alone: what `qwenctl show` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quant.recipe import OUTPUT_TYPES
from quant.tensor_families import FamilyTotal, total_by_family
from qwenctl.errors import TemplateFailed
from qwenctl.services.chat_template import ChatTemplate
from qwenctl.services.model_contents import ModelContents, open_contents

_SAMPLING = "general.sampling."


@dataclass(frozen=True, slots=True)
class TemplateDescription:
    """What the chat template does.

    `thinking` is none, hybrid (a switch), always, or unknown where a `problem` says why it cannot be rendered.
    """

    thinking: str
    tools: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known without reading weights. None: the file does not say."""

    path: Path
    kind: str
    n_files: int
    n_bytes: int
    n_weights: int
    families: tuple[FamilyTotal, ...]
    n_weights_active: int | None = None  # that one token meets
    architecture: str | None = None
    name: str | None = None
    file_type: str | None = None
    license: str | None = None
    n_layers: int | None = None
    n_embd: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    n_experts: int | None = None
    n_experts_used: int | None = None
    n_ctx_train: int | None = None
    rope: str | None = None
    n_vocab: int | None = None
    tokenizer: str | None = None
    template: TemplateDescription | None = None
    sampling: Mapping[str, float] | None = None

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight over all tensors."""
        return 8 * sum(family.n_bytes for family in self.families) / max(1, self.n_weights)


def describe(path: Path) -> ModelDescription:
    """Return the description of a GGUF file, a checkpoint's folder or a single safetensors file.

    Raises:
        QwenctlError, QuantError: see `open_contents`.
    """
    contents = open_contents(path)
    families = total_by_family(
        (tensor.name, tensor.type_name, tensor.n_weights, tensor.n_bytes) for tensor in contents.tensors
    )
    n_weights = sum(tensor.n_weights for tensor in contents.tensors)
    basic = ModelDescription(path, contents.kind, contents.n_files, contents.n_bytes, n_weights, families)
    return _with_metadata(basic, contents) if contents.metadata else basic


def _with_metadata(basic: ModelDescription, contents: ModelContents) -> ModelDescription:
    values = _Values(contents.metadata)
    architecture = values.text("general.architecture") or ""
    n_experts = values.count(f"{architecture}.expert_count")
    n_experts_used = values.count(f"{architecture}.expert_used_count")
    return replace(
        basic,
        n_weights_active=_active_weights(contents, n_experts, n_experts_used),
        architecture=architecture or None,
        name=values.text("general.name"),
        file_type=_file_type(values),
        license=values.text("general.license.name") or values.text("general.license"),
        n_layers=values.count(f"{architecture}.block_count"),
        n_embd=values.count(f"{architecture}.embedding_length"),
        n_heads=values.count(f"{architecture}.attention.head_count"),
        n_kv_heads=values.count(f"{architecture}.attention.head_count_kv"),
        n_experts=n_experts,
        n_experts_used=n_experts_used,
        n_ctx_train=values.count(f"{architecture}.context_length"),
        rope=_rope(values, architecture),
        n_vocab=values.length("tokenizer.ggml.tokens"),
        tokenizer=values.text("tokenizer.ggml.pre") or values.text("tokenizer.ggml.model"),
        template=_template(values.text("tokenizer.chat_template")),
        sampling=values.numbers_below(_SAMPLING),
    )


@dataclass(frozen=True, slots=True)
class _Values:
    """Metadata by type: a key that is missing or of another type gives None."""

    metadata: Mapping[str, object]

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> float | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def count(self, key: str) -> int | None:
        value = self.number(key)
        return value if isinstance(value, int) else None

    def length(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return len(value) if isinstance(value, list | tuple) else None

    def numbers_below(self, prefix: str) -> dict[str, float]:
        found = {key.removeprefix(prefix): self.number(key) for key in self.metadata if key.startswith(prefix)}
        return {name: number for name, number in found.items() if number is not None}


def _active_weights(contents: ModelContents, n_experts: int | None, n_used: int | None) -> int:
    """Count the weights that one token meets: of stacked experts only those it is routed to."""
    total = 0
    for tensor in contents.tensors:
        routed = "_exps." in tensor.name and n_experts and n_used
        total += tensor.n_weights * n_used // n_experts if routed and n_experts and n_used else tensor.n_weights
    return total


def _file_type(values: _Values) -> str | None:
    number = values.count("general.file_type")
    return next((name for name, known in OUTPUT_TYPES.items() if known.ftype_id == number), None)


def _rope(values: _Values, architecture: str) -> str | None:
    base = values.number(f"{architecture}.rope.freq_base")
    if base is None:
        return None
    text = f"base {base:,.0f}"
    kind = values.text(f"{architecture}.rope.scaling.type")
    factor = values.number(f"{architecture}.rope.scaling.factor")
    if kind and factor:
        original = values.count(f"{architecture}.rope.scaling.original_context_length")
        text += f", {kind} {factor:g}x" + (f" from {original:,} tokens" if original else "")
    return text


def _template(source: str | None) -> TemplateDescription | None:
    if source is None:
        return None
    try:
        with ChatTemplate(source) as template:
            can = template.capabilities
            return TemplateDescription(can.thinking, can.tools)
    except TemplateFailed as error:
        return TemplateDescription("unknown", tools=False, problem=error.message)
