"""The demo model's network as trained: Qwen3-MoE's arithmetic.

`round_matrices` puts the matrices into bf16, for CPUs with bf16 matrix units (the optimizer keeps float32 masters).
`export.py` writes the weights under their Hugging Face names and checks that transformers computes the same.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_model.functions import Attention, Experts, HeadLoss, RmsNorm, Rotate


class Shape(NamedTuple):
    """The sizes of the network; row lengths are multiples of 256, so that every K-quant applies."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 16
    top_k: int = 4
    expert_hidden: int = 256
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """float32, whatever `x` is; `weight` has the last axis of `x`, or its last axes."""
    return RmsNorm.apply(x, weight, eps)


@functools.cache
def rotary(length: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """cos and sin (length, 1, head_dim / 2)."""
    frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies)[:, None]
    return angles.cos(), angles.sin()


class Layer(nn.Module):
    """Attention and experts, each behind its norm and added to the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        q, kv, hidden, inner = (
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
            shape.hidden,
            shape.expert_hidden,
        )
        std = 0.5 / math.sqrt(hidden)
        self.input_norm = nn.Parameter(torch.ones(hidden))
        self.post_norm = nn.Parameter(torch.ones(hidden))
        self.q_norm = nn.Parameter(torch.ones(shape.head_dim))
        self.k_norm = nn.Parameter(torch.ones(shape.head_dim))
        self.q = nn.Parameter(torch.randn(q, hidden) * std)
        self.k = nn.Parameter(torch.randn(kv, hidden) * std)
        self.v = nn.Parameter(torch.randn(kv, hidden) * std)
        self.o = nn.Parameter(torch.randn(hidden, q) * std * 0.2)
        self.router = nn.Parameter(torch.randn(shape.experts, hidden) * 0.02)
        self.gate_up = nn.Parameter(torch.randn(shape.experts, 2 * inner, hidden) * std)
        self.down = nn.Parameter(torch.randn(shape.experts, hidden, inner) * std * 0.2)

    def attention(self, x: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """x (T, hidden): the rows of several batches one after another, each of (rows, length) in `sizes`."""
        s = self.shape
        n_qk = s.heads + s.kv_heads
        qkv = F.linear(x, torch.cat((self.q, self.k, self.v))).view(-1, n_qk + s.kv_heads, s.head_dim)
        norms = torch.cat((self.q_norm.expand(s.heads, -1), self.k_norm.expand(s.kv_heads, -1)))
        qk, v = rms_norm(qkv[:, :n_qk], norms, s.norm_eps), qkv[:, n_qk:]
        outs, start = [], 0
        for n_rows, length in sizes:
            part = slice(start, start + n_rows * length)
            start = part.stop
            rows = qk[part].view(n_rows, length, n_qk, s.head_dim)
            turned = Rotate.apply(rows, *rotary(length, s), x.dtype).transpose(1, 2)
            v_part = v[part].view(n_rows, length, s.kv_heads, s.head_dim).transpose(1, 2)
            out = Attention.apply(turned[:, : s.heads], turned[:, s.heads :], v_part)
            outs.append(out.transpose(1, 2).reshape(n_rows * length, -1))
        return F.linear(torch.cat(outs), self.o)

    def forward(self, residual: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream after the layer, the load-balance loss and the share of tokens each expert got."""
        s, dtype = self.shape, self.q.dtype
        residual = residual + self.attention(rms_norm(residual, self.input_norm, s.norm_eps).to(dtype), sizes)
        x = rms_norm(residual, self.post_norm, s.norm_eps)
        probabilities = torch.softmax(F.linear(x, self.router), dim=-1)
        top, chosen = probabilities.topk(s.top_k, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        share = torch.bincount(chosen.reshape(-1), minlength=s.experts) / chosen.numel()
        balance = s.experts * (share * probabilities.mean(0)).sum()
        out = Experts.apply(x.to(dtype), self.gate_up, self.down, chosen, top)
        return residual + out, balance, share


class Network(nn.Module):
    """Embedding, layers, norm and head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.1)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self.head = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.01)

    def hidden(self, batches: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Final hidden states (T, hidden) of the batches in turn, balance loss, expert shares (layers, experts)."""
        sizes = [(ids.shape[0], ids.shape[1]) for ids in batches]
        residual = F.embedding(torch.cat([ids.reshape(-1) for ids in batches]), self.embedding)
        balances, shares = [], []
        for layer in self.layers:
            residual, balance, share = layer(residual, sizes)
            balances.append(balance)
            shares.append(share)
        x = rms_norm(residual, self.norm, self.shape.norm_eps).to(self.head.dtype)
        return x, torch.stack(balances).mean(), torch.stack(shares)

    def loss(self, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy over (ids, weights) batches, balance loss, expert shares."""
        x, balance, shares = self.hidden([ids[:, :-1] for ids, _ in batches])
        targets = torch.cat([ids[:, 1:].reshape(-1) for ids, _ in batches])
        weights = torch.cat([weight.reshape(-1) for _, weight in batches])
        return HeadLoss.apply(x, self.head, targets, weights), balance, shares

    def logits(self, ids: Tensor) -> Tensor:
        """(rows, length, vocab) for ids (rows, length)."""
        x, _, _ = self.hidden([ids])
        return F.linear(x, self.head).view(*ids.shape, -1).float()

    def round_matrices(self) -> "Network":
        """Keep the matrices in bf16, which is what the products want; router, embedding and norms stay float32."""
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2 and name.split(".")[-1] not in ("router", "embedding"):
                parameter.data = parameter.data.bfloat16()
        return self
