"""Log-probabilities that vLLM gives to fixed tokens; run by the interpreter of the environment `vllm`.

    python score_with_vllm.py CHECKPOINT TOKENS.npy OUT.json

TOKENS: i32 (n_sequences, n_tokens). OUT: {"loader", "packed", "n_tokens", "mean_nll"}: program and version, how many
modules ran packed by the kind of kernel, and the mean negative log-probability of every token but the first of each
sequence. Imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

KV_CACHE_GIB = 1

# vLLM reads these when it is imported. In one process, so that an error is seen here.
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def count_packed(model: Any) -> dict[str, int]:
    """Return how many modules of a torch model compute with packed weights, by the method they do it with."""
    methods = [type(getattr(module, "quant_method", None)).__name__ for module in model.modules()]
    return Counter(name for name in methods if "AWQ" in name or "GPTQ" in name)


def main(checkpoint: str, tokens_path: str, out: str) -> None:
    """Load, score, write."""
    import vllm

    tokens = np.load(tokens_path)
    n_tokens = tokens.shape[1]
    llm = vllm.LLM(
        model=checkpoint,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=n_tokens + 1,  # it has to generate one
        max_num_seqs=2,
        max_num_batched_tokens=max(512, n_tokens + 1),
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    prompts = [{"prompt_token_ids": row.tolist()} for row in tokens]
    wanted = vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    scores = [
        answer.prompt_logprobs[position][int(row[position])].logprob
        for row, answer in zip(tokens, llm.generate(prompts, wanted), strict=True)
        for position in range(1, n_tokens)
    ]
    result = {
        "loader": f"vllm {vllm.__version__}",
        "packed": llm.apply_model(count_packed)[0],
        "n_tokens": len(scores),
        "mean_nll": -float(np.mean(scores)),
    }
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
