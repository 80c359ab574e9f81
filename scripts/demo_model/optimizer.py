"""Muon for the matrices, Adam for the rest.

Muon (K. Jordan et al., 2024) replaces the momentum of a matrix by the nearest semi-orthogonal one, found by a few
Newton-Schulz steps. It needs fewer tokens than Adam alone, and tokens are what an hour on a CPU is short of.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

MUON_LR = 0.02
ADAM_LR = {"embedding": 0.01, "head": 0.004, "router": 0.003}
ADAM_LR_OTHER = 0.004
WEIGHT_DECAY = 0.01


def _orthogonal(g: Tensor) -> Tensor:
    """The quintic Newton-Schulz iteration on a stack of matrices (n, rows, columns) with rows <= columns."""
    x = g.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = torch.bmm(x, x.transpose(1, 2))
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x.float()


class Optimizer:
    """One step over all parameters, from float32 masters of the model's possibly bf16 ones."""

    def __init__(self, model: nn.Module) -> None:
        self.named = dict(model.named_parameters())
        self.master = {name: p.detach().float().clone() for name, p in self.named.items()}
        self.is_muon = {name: p.ndim >= 2 and name.rsplit(".", 1)[-1] not in ADAM_LR for name, p in self.named.items()}
        self.first = {name: torch.zeros_like(p) for name, p in self.master.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.master.items() if not self.is_muon[name]}
        self.n_steps = 0

    def step(self, gradients: list[tuple[Tensor, ...]], scale: float, workers: ThreadPoolExecutor) -> None:
        """Update every parameter by the mean of its gradients, each in one of the workers' threads.

        `gradients` has one tuple a worker, in the order of the model's parameters; `scale` is the schedule's factor.
        """
        self.n_steps += 1
        of_each = dict(zip(self.named, zip(*gradients, strict=True), strict=True))
        largest_first = sorted(self.named, key=lambda name: -self.named[name].numel())
        list(workers.map(lambda name: self._update(name, of_each[name], scale), largest_first))

    @torch.no_grad()
    def _update(self, name: str, gradients: tuple[Tensor, ...], scale: float) -> None:
        grad = torch.zeros_like(self.master[name])
        for part in gradients:
            grad.add_(part, alpha=1 / len(gradients))
        if self.is_muon[name]:
            self._muon(name, grad, scale)
        else:
            self._adam(name, grad, scale)
        self.named[name].copy_(self.master[name])

    def _muon(self, name: str, grad: Tensor, scale: float) -> None:
        p, momentum = self.master[name], self.first[name]
        momentum.lerp_(grad, 0.05)
        update = grad.lerp_(momentum, 0.95)
        matrices = update.view(-1, min(256, p.shape[-2]), p.shape[-1])
        p.mul_(1 - scale * MUON_LR * WEIGHT_DECAY)
        p.add_(_orthogonal(matrices).view_as(p), alpha=-scale * MUON_LR)

    def _adam(self, name: str, grad: Tensor, scale: float) -> None:
        beta1, beta2 = 0.9, 0.95
        p, first, second = self.master[name], self.first[name], self.second[name]
        first.lerp_(grad, 1 - beta1)
        second.lerp_(grad.square(), 1 - beta2)
        mean, variance = first / (1 - beta1**self.n_steps), second / (1 - beta2**self.n_steps)
        lr = ADAM_LR.get(name.rsplit(".", 1)[-1], ADAM_LR_OTHER)
        p.add_(mean / (variance.sqrt() + 1e-10), alpha=-scale * lr)

    def state(self) -> dict[str, object]:
        """What `load` wants back."""
        return {"master": self.master, "first": self.first, "second": self.second, "n_steps": self.n_steps}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        """Go on from `state`, the model's weights included."""
        self.master, self.first, self.second = state["master"], state["first"], state["second"]
        self.n_steps = state["n_steps"]
        for name, p in self.named.items():
            p.copy_(self.master[name])
