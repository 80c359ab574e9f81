"""The training loop: warm-up, stable, decay by the clock, with checkpoints to go on from.

The rate is constant until the last quarter of the time and then falls to zero, so the same stable checkpoint can be
finished early or late by another `minutes`. Dialogues are more than half of the tokens, and more still while the
rate falls.

Each core computes its own share of a batch in its own thread, and they meet once a step. Left to OpenMP they would meet
at every operation, which on a machine that also does other work costs most of the time.
"""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from demo_model.dataset import Batch, DialogueRows, TextRows
from demo_model.network import Network, Shape
from demo_model.optimizer import Optimizer

BATCH_TOKENS = 4096
DECAY_FROM = 0.72
WARM_UP_STEPS = 60
BALANCE = 0.02
ROW_LENGTHS = (256, 256, 512, 256, 256, 256, 1024, 256)
"""Of the steps in turn: short rows cost less attention and hold most dialogues; long ones keep long contexts intact."""
CHECKPOINT_EVERY_S = 240


def rate(progress: float, n_steps: int) -> float:
    """The factor on the learning rates at `progress` of the time, 0 to 1."""
    warm = min(1.0, (n_steps + 1) / WARM_UP_STEPS)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


def dialogue_share(progress: float) -> float:
    """How many of the rows hold dialogues."""
    return 0.6 if progress < DECAY_FROM else 0.75


N_WORKERS = os.cpu_count() or 1


class Share(NamedTuple):
    """What one worker found on its share of a batch."""

    gradients: tuple[torch.Tensor, ...]
    loss: float
    balance: float
    shares: torch.Tensor


def _share(model: Network, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Share:
    loss, balance, shares = model.loss(batches)
    gradients = torch.autograd.grad(loss + BALANCE * balance, list(model.parameters()))
    return Share(gradients, loss.item(), balance.item(), shares)


def _tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(batch.ids), torch.from_numpy(batch.weights)


def save(path: Path, optimizer: Optimizer, elapsed_s: float, n_tokens: int) -> None:
    """Write a checkpoint, so that an interrupted write leaves the one before."""
    temporary = path.with_suffix(".part")
    torch.save({"optimizer": optimizer.state(), "elapsed_s": elapsed_s, "n_tokens": n_tokens}, temporary)
    temporary.replace(path)


def train(work: Path, minutes: float, seed: int = 1) -> Network:
    """Train for `minutes` of wall clock, counting the time of an earlier run whose checkpoint lies in `work`."""
    torch.manual_seed(seed)
    model = Network(Shape()).round_matrices()
    optimizer = Optimizer(model)
    checkpoint = work / "checkpoint.pt"
    before_s, n_tokens = 0.0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        optimizer.load(state["optimizer"])
        before_s, n_tokens = state["elapsed_s"], state["n_tokens"]
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    mix = random.Random(seed + optimizer.n_steps)
    text = TextRows(work / "tokens", seed + optimizer.n_steps)
    talk = DialogueRows(tokenizer, seed + optimizer.n_steps)
    begin = saved = time.monotonic()
    torch.set_num_threads(1)
    with (
        (work / "log.jsonl").open("a") as log,
        ThreadPoolExecutor(N_WORKERS, initializer=torch.set_num_threads, initargs=(1,)) as workers,
    ):
        while True:
            elapsed_s = before_s + time.monotonic() - begin
            progress = elapsed_s / (minutes * 60)
            if progress >= 1:
                break
            length = ROW_LENGTHS[optimizer.n_steps % len(ROW_LENGTHS)]
            n_rows = BATCH_TOKENS // N_WORKERS // length
            work_lists = []
            for _ in range(N_WORKERS):
                n_talk = sum(mix.random() < dialogue_share(progress) for _ in range(n_rows))
                takes: list[tuple[TextRows | DialogueRows, int]] = [(talk, n_talk), (text, n_rows - n_talk)]
                work_lists.append([_tensors(rows.take(n, length)) for rows, n in takes if n])
            found = list(workers.map(_share, [model] * N_WORKERS, work_lists))
            optimizer.step([share.gradients for share in found], rate(progress, optimizer.n_steps), workers)
            n_tokens += BATCH_TOKENS
            if optimizer.n_steps % 20 == 0:
                row = {
                    "step": optimizer.n_steps,
                    "minutes": round(elapsed_s / 60, 2),
                    "tokens": n_tokens,
                    "loss": round(sum(share.loss for share in found) / N_WORKERS, 4),
                    "rate": round(rate(progress, optimizer.n_steps), 4),
                    "balance": round(found[0].balance, 3),
                    "largest_share": round(found[0].shares.max().item(), 3),
                    "smallest_share": round(found[0].shares.min().item(), 4),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                print(row, flush=True)
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                save(checkpoint, optimizer, elapsed_s, n_tokens)
                saved = time.monotonic()
    save(checkpoint, optimizer, before_s + time.monotonic() - begin, n_tokens)
    return model


def summary(work: Path) -> dict[str, float]:
    """How long the training in `work` took, from its checkpoint."""
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    return {
        "n_steps": state["optimizer"]["n_steps"],
        "n_tokens": state["n_tokens"],
        "minutes": round(state["elapsed_s"] / 60, 1),
    }
