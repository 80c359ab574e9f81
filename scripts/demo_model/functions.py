# ruff: noqa: D102 - forward and backward are what autograd calls them
"""The network's expensive operations as autograd functions with hand-written derivatives, for speed on a CPU.

transformers computes one expert at a time through general autograd; here the tokens are sorted by expert once a layer,
and forward and backward of all experts are plain matrix products, in whatever type the arguments have.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last axis, in float32; autograd's own would pass over several arrays more."""

    @staticmethod
    def forward(ctx, x, weight, eps):  # type: ignore[no-untyped-def]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return x * scale * weight

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, scale = ctx.saved_tensors
        x_hat = x * scale
        d_weight = (grad * x_hat).sum(tuple(range(grad.ndim - weight.ndim)))
        grad = grad * weight
        inner = (grad * x_hat).mean(-1, keepdim=True)
        return grad.sub_(x_hat.mul_(inner)).mul_(scale).to(x.dtype), d_weight, None


class Experts(torch.autograd.Function):
    """All experts of a layer: sum over a token's experts of p * down(silu(gate x) * up x).

    x (T, hidden) bf16; gate_up (E, 2*inner, hidden), down (E, hidden, inner) bf16; `chosen` (T, k) int64,
    `p` (T, k) float32. Each expert's rows are padded to a multiple of PAD with rows of p = 0: oneDNN compiles a kernel
    for every new number of rows.
    """

    PAD = 64

    @staticmethod
    def forward(ctx, x, gate_up, down, chosen, p):  # type: ignore[no-untyped-def]
        n_tokens, k = chosen.shape
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=gate_up.shape[0])
        padded = (counts + Experts.PAD - 1) // Experts.PAD * Experts.PAD
        gaps = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
        position = torch.arange(order.numel()) + gaps[flat[order]]
        ends = padded.cumsum(0).tolist()
        place = torch.empty_like(order)
        place[order] = position
        source = torch.zeros(ends[-1], dtype=torch.int64)
        source[position] = order // k
        p_sorted = torch.zeros(ends[-1])
        p_sorted[position] = p.reshape(-1)[order]
        x_sorted = x.index_select(0, source)
        h = torch.empty(ends[-1], gate_up.shape[1], dtype=x.dtype)
        y = torch.empty_like(x_sorted)
        start = 0
        for expert, end in enumerate(ends):
            if end > start:
                torch.mm(x_sorted[start:end], gate_up[expert].T, out=h[start:end])
                gate, up = h[start:end].chunk(2, dim=1)
                torch.mm(F.silu(gate) * up, down[expert].T, out=y[start:end])
            start = end
        ctx.save_for_backward(x_sorted, h, gate_up, down, source, place, p_sorted)
        ctx.ends, ctx.k = ends, k
        out = y.index_select(0, place).view(n_tokens, k, -1)
        return torch.bmm(p.to(out.dtype).unsqueeze(1), out).squeeze(1)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x_sorted, h, gate_up, down, source, place, p_sorted = ctx.saved_tensors
        dy = grad.index_select(0, source)
        dx_sorted = torch.empty_like(x_sorted)
        dp_sorted = torch.zeros_like(p_sorted)
        d_gate_up, d_down = torch.zeros_like(gate_up), torch.zeros_like(down)
        inner = down.shape[2]
        start = 0
        for expert, end in enumerate(ctx.ends):
            if end > start:
                gate, up = h[start:end].chunk(2, dim=1)
                scale = p_sorted[start:end, None].to(x_sorted.dtype)
                sigmoid = torch.sigmoid(gate)
                silu = gate * sigmoid
                a = silu * up
                da = torch.mm(dy[start:end], down[expert])
                dp_sorted[start:end] = (da * a).sum(1, dtype=torch.float32)
                da *= scale
                torch.mm((dy[start:end] * scale).T, a, out=d_down[expert])
                dh = torch.empty_like(h[start:end])
                dh[:, inner:] = da * silu
                dh[:, :inner] = da * up * (sigmoid + silu * (1 - sigmoid))
                torch.mm(dh.T, x_sorted[start:end], out=d_gate_up[expert])
                torch.mm(dh, gate_up[expert], out=dx_sorted[start:end])
            start = end
        dx = dx_sorted.index_select(0, place).view(-1, ctx.k, x_sorted.shape[1]).sum(1)
        dp = dp_sorted.index_select(0, place).view(-1, ctx.k)
        return dx, d_gate_up, d_down, None, dp


class HeadLoss(torch.autograd.Function):
    """Weighted mean cross entropy of `x @ head.T`, in pieces that stay in a core's cache."""

    PIECE = 256

    @staticmethod
    def forward(ctx, x, head, targets, weights):  # type: ignore[no-untyped-def]
        dx = torch.empty_like(x)
        d_logits = torch.empty(x.shape[0], head.shape[0], dtype=x.dtype)
        total = torch.zeros(())
        norm = weights / weights.sum()
        for start in range(0, x.shape[0], HeadLoss.PIECE):
            piece = slice(start, start + HeadLoss.PIECE)
            logits = torch.log_softmax(torch.mm(x[piece], head.T).float(), dim=1)
            total -= (logits.gather(1, targets[piece, None]).squeeze(1) * norm[piece]).sum()
            grad = logits.exp_()
            grad[torch.arange(grad.shape[0]), targets[piece]] -= 1
            d_logits[piece] = grad.mul_(norm[piece, None])
            torch.mm(d_logits[piece], head, out=dx[piece])
        d_head = torch.mm(d_logits.T, x)
        ctx.save_for_backward(dx, d_head)
        return total

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        dx, d_head = ctx.saved_tensors
        return dx * grad.to(dx.dtype), d_head * grad.to(d_head.dtype), None, None


@functools.cache
def causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    """(length, length): 0 where a row may look, minus infinity where not."""
    return torch.full((length, length), -math.inf).triu(1).to(dtype)


class Attention(torch.autograd.Function):
    """Causal attention of q (rows, heads, length, dim) on k, v (rows, kv_heads, length, dim), written out.

    On short rows plain products are twice as fast as the fused kernel's backward. The query heads that share a key
    head are stacked below each other, so keys and values are never repeated.
    """

    @staticmethod
    def forward(ctx, q, k, v):  # type: ignore[no-untyped-def]
        rows, heads, length, dim = q.shape
        n = rows * k.shape[1]
        q, k, v = q.reshape(n, -1, dim), k.reshape(n, length, dim), v.reshape(n, length, dim)
        mask = causal_mask(length, q.dtype).repeat(q.shape[1] // length, 1)
        p = torch.softmax(torch.baddbmm(mask, q, k.transpose(1, 2), alpha=dim**-0.5), dim=-1)
        out = torch.bmm(p, v)
        ctx.save_for_backward(q, k, v, p, out)
        return out.view(rows, heads, length, dim)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        q, k, v, p, out = ctx.saved_tensors
        rows, heads, length, dim = grad.shape
        grad = grad.reshape(out.shape)
        inner = (grad * out).sum(-1, keepdim=True)
        ds = torch.bmm(grad, v.transpose(1, 2)).sub_(inner).mul_(p).mul_(dim**-0.5)
        dq, dk = torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q)
        dv = torch.bmm(p.transpose(1, 2), grad)
        return dq.view(rows, heads, length, dim), dk.view(rows, -1, length, dim), dv.view(rows, -1, length, dim)


class Rotate(torch.autograd.Function):
    """Rotary position embedding of x (rows, length, heads, head_dim); `cos`, `sin` (length, 1, head_dim / 2).

    The first half of a head is turned against the second, as in Qwen3.
    """

    @staticmethod
    def forward(ctx, x, cos, sin, dtype):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return Rotate.turned(x, cos, sin, dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return Rotate.turned(grad, cos, -sin, torch.float32), None, None, None

    @staticmethod
    def turned(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        out = torch.empty(x.shape, dtype=dtype)
        half = first.shape[-1]
        out[..., :half] = first * cos - second * sin
        out[..., half:] = second * cos + first * sin
        return out
