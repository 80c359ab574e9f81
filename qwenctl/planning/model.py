"""A model as a plan sees it: sizes of its parts in one choice of types. Made of an outline; knows no machine."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from quant.gguf_read import GgufFile
from quant.model_outline import ModelOutline
from quant.recipe import OutputType
from qwenctl.moe.context_memory import ContextShape
from qwenctl.moe.expert_map import ExpertMap, planned_expert_map
from qwenctl.moe.model_size import ModelSize, size_of_model
from qwenctl.moe.stock_placement import LayerSizes, layer_sizes


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model in one quantization.

    Attributes:
        outline: names, shapes, metadata.
        quant: name of the output type; None: the file is there, with the types that it has.
        gguf: the file, or what it would be.
        experts: where they lie; None: a dense model.
        shape: what decides the memory of a context.
        sizes: bytes by layer.
    """

    outline: ModelOutline
    quant: str | None
    gguf: GgufFile
    experts: ExpertMap | None
    shape: ContextShape
    sizes: LayerSizes

    @classmethod
    def of(cls, outline: ModelOutline, output: OutputType | None) -> PlannedModel:
        """Return the model in the types of `output`; None: in its own."""
        gguf = outline.gguf(output)
        shape = ContextShape.of(outline.metadata, outline.shapes["token_embd.weight"][0])
        sizes = layer_sizes(gguf.tensors, shape.n_layers)
        name = None if output is None else output.name
        return cls(outline, name, gguf, planned_expert_map(gguf), shape, sizes)

    @property
    def file_bytes(self) -> int:
        """Of the file."""
        return self.gguf.size_bytes

    @property
    def n_weights(self) -> int:
        """Of all tensors."""
        return sum(prod(shape) for shape in self.outline.shapes.values())

    @property
    def n_ctx_train(self) -> int:
        """The context that the model was trained for; 0: not said."""
        return self.outline.number("context_length")

    def size(self, slot_bytes: tuple[int, ...] | None = None) -> ModelSize:
        """Return what sizing takes.

        Args:
            slot_bytes: of an expert of each layer with experts in the layout chosen; None: as in the file.

        Raises:
            ValueError: a dense model.
        """
        if self.experts is None:
            raise ValueError(f"{self.outline.name} has no experts")
        plain = tuple(layer.expert_bytes for layer in self.experts.layers)
        return size_of_model(self.gguf, self.experts, slot_bytes or plain)
