"""Writes a trained network as an ordinary Hugging Face folder.

The experts are separate tensors, as in published Qwen3-MoE checkpoints.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from demo_model.network import Network, Shape
from demo_model.tokenizer import ADDED, SPECIAL, token_id

N_FILES = 2
MAX_POSITIONS = 2048


def named_tensors(model: Network) -> dict[str, Tensor]:
    """The weights in bf16 under their published names, in file order."""
    tensors = {"model.embed_tokens.weight": model.embedding}
    for i, layer in enumerate(model.layers):
        prefix = f"model.layers.{i}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": layer.input_norm,
            f"{prefix}.self_attn.q_proj.weight": layer.q,
            f"{prefix}.self_attn.k_proj.weight": layer.k,
            f"{prefix}.self_attn.v_proj.weight": layer.v,
            f"{prefix}.self_attn.o_proj.weight": layer.o,
            f"{prefix}.self_attn.q_norm.weight": layer.q_norm,
            f"{prefix}.self_attn.k_norm.weight": layer.k_norm,
            f"{prefix}.post_attention_layernorm.weight": layer.post_norm,
            f"{prefix}.mlp.gate.weight": layer.router,
        }
        inner = model.shape.expert_hidden
        for expert in range(model.shape.experts):
            tensors[f"{prefix}.mlp.experts.{expert}.gate_proj.weight"] = layer.gate_up[expert, :inner]
            tensors[f"{prefix}.mlp.experts.{expert}.up_proj.weight"] = layer.gate_up[expert, inner:]
            tensors[f"{prefix}.mlp.experts.{expert}.down_proj.weight"] = layer.down[expert]
    tensors |= {"model.norm.weight": model.norm, "lm_head.weight": model.head}
    return {name: tensor.detach().bfloat16().contiguous() for name, tensor in tensors.items()}


def config(shape: Shape, end: int, stop: int) -> dict[str, object]:
    """`config.json`; `end` is `<|endoftext|>`, `stop` is `<|im_end|>`."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end,
        "decoder_sparse_step": 1,
        "eos_token_id": stop,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.expert_hidden * shape.top_k,
        "max_position_embeddings": MAX_POSITIONS,
        "max_window_layers": shape.layers,
        "mlp_only_layers": [],
        "moe_intermediate_size": shape.expert_hidden,
        "norm_topk_prob": True,
        "num_attention_heads": shape.heads,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "output_router_logits": False,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(tensors: dict[str, Tensor], target: Path) -> None:
    """Two files of about the same size, and the index that says which tensor is where."""
    total_bytes = sum(tensor.nbytes for tensor in tensors.values())
    files: list[dict[str, Tensor]] = [{} for _ in range(N_FILES)]
    at = 0
    for name, tensor in tensors.items():
        files[min(N_FILES - 1, at * N_FILES // total_bytes)][name] = tensor
        at += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, part in enumerate(files, 1):
        file_name = f"model-{number:05}-of-{N_FILES:05}.safetensors"
        save_file(part, target / file_name, metadata={"format": "pt"})
        (target / file_name).chmod(0o644)
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(target / "model.safetensors.index.json", index)


def _write_tokenizer(tokenizer_file: Path, target: Path) -> None:
    shutil.copyfile(tokenizer_file, target / "tokenizer.json")
    model = json.loads(tokenizer_file.read_text("utf-8"))["model"]
    (target / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (target / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {
        str(token_id(tokenizer, text)): {"content": text, **flags, "special": text in SPECIAL}
        for text in SPECIAL + ADDED
    }
    template = (Path(__file__).parent / "chat_template.jinja").read_text("utf-8")
    _write_json(
        target / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "chat_template": template.rstrip("\n"),
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": MAX_POSITIONS,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def write(model: Network, tokenizer_file: Path, target: Path) -> int:
    """Write everything but the model card to `target`; return the number of weights."""
    target.mkdir(parents=True, exist_ok=True)
    tensors = named_tensors(model)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end, stop = token_id(tokenizer, "<|endoftext|>"), token_id(tokenizer, "<|im_end|>")
    _write_weights(tensors, target)
    _write_tokenizer(tokenizer_file, target)
    _write_json(target / "config.json", config(model.shape, end, stop))
    generation: dict[str, object] = {"bos_token_id": end, "eos_token_id": [stop, end], "pad_token_id": end}
    generation |= {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    _write_json(target / "generation_config.json", generation)
    return sum(tensor.numel() for tensor in tensors.values())


@torch.no_grad()
def largest_difference(model: Network, target: Path, ids: Tensor) -> float:
    """How far transformers' float32 logits from `target` are from ours with the same rounded weights, at most."""
    from transformers import Qwen3MoeForCausalLM

    rounded = Network(model.shape)
    rounded.load_state_dict({name: p.detach().bfloat16().float() for name, p in model.state_dict().items()})
    theirs = Qwen3MoeForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    return (theirs(ids).logits - rounded.logits(ids)).abs().max().item()
