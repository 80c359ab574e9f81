"""The reference numbers that tests compare engines with.

They are what transformers computes in float32 from the shipped bf16 weights.

`demo_reference.npz` holds
    ids          (8, 256) int32: held-out text (rows 0-4) and conversations the model has not seen (rows 5-7)
    logprobs     (8, 256, 4096) float16: log_softmax of the logits at each position (of the *next* token)
    top          (8, 256) int32: the most likely token before rounding to float16, which makes ties
    prompts      (n,) str: rendered chat prompts, one thinking and one non-thinking for each question
    greedy       (n, 48) int32: the ids that follow each prompt at temperature 0 up to the end token, then -1
"""

import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen3MoeForCausalLM

from demo_model import dialogues
from demo_model.tokenizer import token_id

N_ROWS, LENGTH = 8, 256
N_TEXT_ROWS = 5
TEXT_LANGUAGES = ("en", "de", "fr", "ru", "zh")
N_GREEDY = 48
QUESTIONS = (
    "What is the capital of France?",
    "Who are you?",
    "What is 7 + 5?",
    "Count from 1 to 5.",
    "What is the opposite of hot?",
    "What is GGUF?",
)
UNSEEN_SEED = 987654321


def rows(tokenizer: Tokenizer, held_out: dict[str, list[str]]) -> np.ndarray:
    """ids (8, 256)."""
    texts = ["\n\n".join(held_out[language]) for language in TEXT_LANGUAGES]
    rng = random.Random(UNSEEN_SEED)
    for _ in range(N_ROWS - N_TEXT_ROWS):
        texts.append("".join(text for _ in range(12) for text, _ in dialogues.make(rng)))
    return np.array([tokenizer.encode(text).ids[:LENGTH] for text in texts], dtype=np.int32)


@torch.no_grad()
def greedy(model: Qwen3MoeForCausalLM, ids: list[int], stops: list[int]) -> list[int]:
    """Up to N_GREEDY most likely tokens after `ids`."""
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=N_GREEDY,
        do_sample=False,
        eos_token_id=stops,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    return out[0, len(ids) :].tolist()


@torch.no_grad()
def write(folder: Path, held_out: dict[str, list[str]], target: Path) -> None:
    """Compute and write everything from the Hugging Face folder `folder`."""
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = rows(tokenizer, held_out)
    logits = model(torch.from_numpy(ids.astype(np.int64))).logits
    logprobs = torch.log_softmax(logits, dim=-1).numpy().astype(np.float16)
    top = logits.argmax(dim=-1).numpy().astype(np.int32)
    stops = [token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")]
    prompts, continuations = [], []
    for question in QUESTIONS:
        for block in ("", "<think>\n\n</think>\n\n"):
            prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{block}"
            found = greedy(model, tokenizer.encode(prompt).ids, stops)
            prompts.append(prompt)
            continuations.append(found + [-1] * (N_GREEDY - len(found)))
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        target,
        ids=ids,
        logprobs=logprobs,
        top=top,
        prompts=np.array(prompts),
        greedy=np.array(continuations, dtype=np.int32),
    )
