"""The tensors of a GGUF model: types that llama.cpp has kernels for, and the shapes that its graphs take for granted.

A tensor of a type without a CPU kernel loads, and kills the process at the first token; so does an attention matrix of
another width than the heads make, in some architectures. Sources: type_traits_cpu and ggml_compute_forward_get_rows in
ggml-cpu, binary_op in binary-ops.cpp, load_arch_tensors in models/*.cpp, and the alignment assert of
ggml_backend_cpu_buffer_from_ptr; llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quant.gguf_values import GgufValues

CHECKED_ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe")
"""Architectures whose shapes and heads are checked one by one. For others, the rules that hold for all."""

_WITHOUT_KERNELS = {"F64", "I8", "I16", "I64", "Q8_1", "Q8_K"}
_ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_F32_ENDINGS = ("norm.weight", ".bias", ".scale", *_ROPE_FACTORS)
_MAPPED_ALIGNMENT = 32  # TENSOR_ALIGNMENT: files are mapped, and tensors used where they lie

_Shape: TypeAlias = tuple[int | None, ...]  # None: any length; llama.cpp compares it with a clean error


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that the shapes of tensors follow from."""

    n_layers: int  # without prediction layers
    n_tokens: int
    width: int  # of the embedding
    n_heads: int
    n_kv_heads: int
    head_width: int
    n_experts: int


def check_tensor_types(values: GgufValues, architecture: str) -> None:
    """Check that llama.cpp has kernels for all tensors, and that they lie where it can use them.

    Raises:
        GgufError: names the tensor.
    """
    for name, info in values.gguf.tensors.items():
        if info.dtype in _WITHOUT_KERNELS or (info.dtype == "I32" and architecture in CHECKED_ARCHITECTURES):
            values.refuse(f"tensor {name} is stored as {info.dtype}, for which llama.cpp has no kernels")
        if name.endswith(_F32_ENDINGS) and info.dtype != "F32":
            values.refuse(f"tensor {name} is stored as {info.dtype}; llama.cpp computes it in F32 only")
        if info.offset_bytes % _MAPPED_ALIGNMENT:
            values.refuse(f"tensor {name} is at byte {info.offset_bytes:,}, not at a multiple of {_MAPPED_ALIGNMENT}")


def check_tensor_shapes(values: GgufValues, architecture: str, shape: ModelShape) -> None:
    """Check that the tensors which one of CHECKED_ARCHITECTURES requires are there, in the shapes of its metadata.

    Raises:
        GgufError: names the tensor.
    """
    _check_shape(values, "token_embd.weight", (shape.n_tokens, shape.width))
    _check_shape(values, "output_norm.weight", (shape.width,))
    expected = _layer_shapes(architecture, shape)
    fused = (shape.head_width * (shape.n_heads + 2 * shape.n_kv_heads), shape.width)
    for layer in range(shape.n_layers):
        has_fused = f"blk.{layer}.attn_qkv.weight" in values.gguf.tensors
        for name, dims in expected.items():
            if not (has_fused and name in {"attn_q", "attn_k", "attn_v"}):
                _check_shape(values, f"blk.{layer}.{name}.weight", dims)
        if has_fused:
            _check_shape(values, f"blk.{layer}.attn_qkv.weight", fused)


def _layer_shapes(architecture: str, shape: ModelShape) -> dict[str, _Shape]:
    query, key = shape.n_heads * shape.head_width, shape.n_kv_heads * shape.head_width
    shapes: dict[str, _Shape] = {
        "attn_norm": (shape.width,),
        "attn_q": (query, shape.width),
        "attn_k": (key, shape.width),
        "attn_v": (key, shape.width),
        "attn_output": (shape.width, query),
        "ffn_norm": (shape.width,),
    }
    if architecture.startswith("qwen3"):
        shapes |= {"attn_q_norm": (shape.head_width,), "attn_k_norm": (shape.head_width,)}
    if shape.n_experts == 0:
        return shapes | {
            "ffn_gate": (None, shape.width),
            "ffn_up": (None, shape.width),
            "ffn_down": (shape.width, None),
        }
    return shapes | {
        "ffn_gate_inp": (shape.n_experts, shape.width),
        "ffn_gate_exps": (shape.n_experts, None, shape.width),
        "ffn_up_exps": (shape.n_experts, None, shape.width),
        "ffn_down_exps": (shape.n_experts, shape.width, None),
    }


def _check_shape(values: GgufValues, name: str, expected: _Shape) -> None:
    info = values.gguf.tensors.get(name)
    if info is None:
        values.refuse(f"tensor {name} is missing")
    found = info.shape
    while len(found) > len(expected) and found[0] == 1:  # llama.cpp does not count outer dimensions of 1
        found = found[1:]
    fits = (want is None or length == want for length, want in zip(found, expected, strict=False))
    if len(found) != len(expected) or not all(fits):
        wanted = ", ".join("any" if length is None else str(length) for length in expected)
        values.refuse(f"tensor {name} has shape {info.shape}, the metadata make it ({wanted})")
