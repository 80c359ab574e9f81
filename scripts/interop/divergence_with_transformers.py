"""Divergence of a GGUF file's weights from the checkpoint it was made from, by transformers in f32: a second opinion.

    python divergence_with_transformers.py CHECKPOINT MODEL.gguf TEXT N_CTX DECODED OUT.json

Run by the interpreter of the environment `transformers`. Nothing here is ours or llama.cpp's: weights are decoded by
gguf-py, text is tokenized by `tokenizers`, logits come from transformers, and chunks and figures are worked out below
from the description of the method alone (llama.cpp tools/perplexity/README.md), one position at a time, in f64.

The decoded weights are left in the folder DECODED, an f32 checkpoint, so that others can be given the same weights.
OUT: {"n_tokens", "mean_kld", "same_top", "ppl", "ppl_reference", "ppl_ratio"}.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
}
EXPERTS = {"ffn_gate_exps.weight": "gate_proj", "ffn_up_exps.weight": "up_proj", "ffn_down_exps.weight": "down_proj"}


def decoded_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the file's weights in f32 under the checkpoint's names, experts one by one."""
    weights = {}
    for tensor in GGUFReader(path).tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)).reshape(shape)
        match = re.fullmatch(r"blk\.(\d+)\.(.*)", tensor.name)
        prefix, name = (f"model.layers.{match[1]}.", match[2]) if match else ("", tensor.name)
        if name in EXPERTS:
            for expert, matrix in enumerate(values):
                weights[f"{prefix}mlp.experts.{expert}.{EXPERTS[name]}.weight"] = matrix.clone()
        else:
            weights[prefix + NAMES[name]] = values
    return weights


def write_checkpoint(source: Path, weights: dict[str, torch.Tensor], target: Path) -> None:
    """Write `weights` with everything of `source` that is no weight."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".json" and path.name != "model.safetensors.index.json":
            shutil.copy(path, target)
    for name in ("merges.txt", "vocab.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copy(source / name, target)
    config = json.loads((target / "config.json").read_text())
    config["torch_dtype"] = "float32"
    (target / "config.json").write_text(json.dumps(config))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def log_probabilities(folder: Path, ids: np.ndarray) -> np.ndarray:
    """Return f64 (n_chunks, n_ctx, n_vocab) of a checkpoint computed in f32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    rows = [model(torch.from_numpy(chunk[None].astype(np.int64))).logits[0].double() for chunk in ids]
    return torch.stack(rows).log_softmax(-1).numpy()


def figures(reference: np.ndarray, other: np.ndarray, ids: np.ndarray) -> dict[str, float]:
    """Return the figures over the second half of each chunk."""
    n_chunks, n_ctx = ids.shape
    divergences, agreements, losses, reference_losses = [], [], [], []
    for chunk in range(n_chunks):
        for position in range(n_ctx // 2, n_ctx - 1):
            ours, theirs, follows = reference[chunk, position], other[chunk, position], ids[chunk, position + 1]
            divergences.append(float((np.exp(ours) * (ours - theirs)).sum()))
            agreements.append(int(ours.argmax()) == int(theirs.argmax()))
            reference_losses.append(-float(ours[follows]))
            losses.append(-float(theirs[follows]))
    ppl, ppl_reference = math.exp(np.mean(losses)), math.exp(np.mean(reference_losses))
    return {
        "n_tokens": len(divergences),
        "mean_kld": float(np.mean(divergences)),
        "same_top": float(np.mean(agreements)),
        "ppl": ppl,
        "ppl_reference": ppl_reference,
        "ppl_ratio": ppl / ppl_reference,
    }


def main(checkpoint: Path, gguf: Path, text: Path, n_ctx: int, decoded: Path, out: Path) -> None:
    """Decode, compute, compare, write."""
    torch.set_num_threads(1)
    write_checkpoint(checkpoint, decoded_weights(gguf), decoded)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokens = np.array(tokenizer.encode(text.read_text("utf-8"), add_special_tokens=False).ids)
    n_chunks = len(tokens) // n_ctx
    ids = tokens[: n_chunks * n_ctx].reshape(n_chunks, n_ctx)
    found = figures(log_probabilities(checkpoint, ids), log_probabilities(decoded, ids), ids)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]), *map(Path, sys.argv[5:7]))
