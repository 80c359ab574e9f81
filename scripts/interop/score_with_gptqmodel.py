"""Log-probabilities that transformers with GPTQModel's torch kernels gives to fixed tokens, on CPU, in BF16.

    python score_with_gptqmodel.py CHECKPOINT TOKENS.npy OUT.json

Run by the interpreter of the environment `gptqmodel`; arguments and result as for score_with_vllm.py. The plain torch
kernels are asked for: the fused ones leave out GPTQ's zeros. Imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"


def main(checkpoint: str, tokens_path: str, out: str) -> None:
    """Load, score, write."""
    import torch
    from gptqmodel import BACKEND, GPTQModel

    tokens = torch.tensor(np.load(tokens_path).astype(np.int64))
    model = GPTQModel.load(checkpoint, device="cpu", dtype=torch.bfloat16, backend=BACKEND.TORCH).model
    scores: list[float] = []
    with torch.inference_mode():
        for row in tokens:
            log_probabilities = torch.log_softmax(model(row[None]).logits[0, :-1].double(), dim=-1)
            scores += log_probabilities[torch.arange(len(row) - 1), row[1:]].tolist()
    result = {
        "loader": f"gptqmodel {version('gptqmodel')}",
        "packed": Counter(type(module).__name__ for module in model.modules() if hasattr(module, "qweight")),
        "n_tokens": len(scores),
        "mean_nll": -float(np.mean(scores)),
    }
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
