"""The tensors of a GGUF model: types that llama.cpp has kernels for, and the shapes that its graphs take for granted.

A tensor of a type without a CPU kernel loads, and kills the process at the first token. Sources: type_traits_cpu and
ggml_compute_forward_get_rows in ggml-cpu, binary_op in binary-ops.cpp, load_arch_tensors in models/*.cpp, and the
alignment assert of ggml_backend_cpu_buffer_from_ptr; llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Iterator

from quant.gguf_values import GgufValues

_WITHOUT_KERNELS = {"F64", "I8", "I16", "I64", "Q8_1", "Q8_K"}
_F32_ENDINGS = (
    "norm.weight",
    ".bias",
    ".scale",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
_MAPPED_ALIGNMENT = 32  # TENSOR_ALIGNMENT: files are mapped, and tensors used where they lie

_ATTENTION = {
    "qwen3": ("attn_q_norm", "attn_k_norm"),
    "qwen3moe": ("attn_q_norm", "attn_k_norm"),
}
_EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_DENSE = ("ffn_gate", "ffn_up", "ffn_down")

CHECKED_ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe")
"""Architectures whose shapes and heads are checked one by one. For others, the rules that hold for all."""


def check_tensors(values: GgufValues, architecture: str, n_layers: int, n_tokens: int) -> None:
    """Check types and alignment of all tensors; for architectures we know, that the required ones are there and fit.

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
    if architecture not in CHECKED_ARCHITECTURES:
        return
    width = values.count(f"{architecture}.embedding_length")
    _check_shape(values, "token_embd.weight", (n_tokens, width))
    _check_shape(values, "output_norm.weight", (width,))
    n_layers -= values.count(f"{architecture}.nextn_predict_layers", 0)
    for layer in range(n_layers):
        _check_shape(values, f"blk.{layer}.attn_norm.weight", (width,))
        for name in _layer_tensors(values, architecture, layer):
            if name not in values.gguf.tensors:
                values.refuse(f"tensor {name} is missing")


def _layer_tensors(values: GgufValues, architecture: str, layer: int) -> Iterator[str]:
    n_experts = values.count(f"{architecture}.expert_count", 0)
    is_fused = f"blk.{layer}.attn_qkv.weight" in values.gguf.tensors
    projections = () if is_fused else ("attn_q", "attn_k", "attn_v")
    feed_forward = _EXPERTS if n_experts else _DENSE
    for name in (*projections, "attn_output", *_ATTENTION.get(architecture, ()), "ffn_norm", *feed_forward):
        yield f"blk.{layer}.{name}.weight"


def _check_shape(values: GgufValues, name: str, expected: tuple[int, ...]) -> None:
    info = values.gguf.tensors.get(name)
    if info is None:
        values.refuse(f"tensor {name} is missing")
    if info.shape != expected:
        values.refuse(f"tensor {name} has shape {info.shape}, the metadata make it {expected}")
