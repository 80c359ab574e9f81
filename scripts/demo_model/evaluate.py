"""What the finished model can do, measured on the shipped folder with transformers in float32.

Held-out perplexity a language, and conversations: does it close its thinking, stop by itself, and answer rightly?
"""

import math
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3MoeForCausalLM

from demo_model import dialogues
from demo_model.dataset import TEXT_SHARES
from demo_model.reference import UNSEEN_SEED
from demo_model.tokenizer import token_id

WINDOW = 512
MAX_WINDOWS = 8
"""Windows measured a language; what has fewer held-out tokens is measured whole."""
MAX_NEW_TOKENS = 200
N_GENERATED = 40

QUESTIONS = (
    ("What is the capital of France?", "Paris"),
    ("what is the capital of france", "Paris"),
    ("Hello!", ""),
    ("Who are you?", "qwenctl"),
    ("What is 2 + 2?", "4"),
    ("Count from 1 to 5.", "1, 2, 3, 4, 5"),
    ("What colour is the sky?", "blue"),
    ("What is the opposite of hot?", "cold"),
    ("Translate cat into German.", "Katze"),
    ("What is GGUF?", "file format"),
    ("Explain a mixture of experts in two paragraphs.", "expert"),
    ("Write a Python function that adds two numbers.", "def"),
    ("List three fruits.", ""),
    ("Which day comes after Monday?", "Tuesday"),
    ("Was ist die Hauptstadt von Deutschland?", "Berlin"),
    ("Quelle est la capitale de l'Espagne ?", "Madrid"),
    ("Tell me a story about a fox.", "fox"),
    ("Who will win the election?", "know"),
    ("How many days are in a week?", "7"),
    ("Thank you!", "welcome"),
    ("Could you please tell me what the capital city of Italy is, and why it is famous?", ""),
    ("Write a poem about the sea.", ""),
    ("What is the meaning of life?", ""),
    ("Give me a recipe for pancakes.", ""),
)
"""(question, what the answer must contain); the last few are unlike anything in training and need only end well."""


@torch.no_grad()
def perplexity(model: Qwen3MoeForCausalLM, ids: list[int]) -> float:
    """Over consecutive windows, each predicted from its own beginning."""
    total, n = 0.0, 0
    for start in range(0, min(len(ids), MAX_WINDOWS * WINDOW), WINDOW):
        window = torch.tensor([ids[start : start + WINDOW]])
        if window.shape[1] < 2:
            continue
        logprobs = torch.log_softmax(model(window).logits[0, :-1], dim=-1)
        total -= logprobs.gather(1, window[0, 1:, None]).sum().item()
        n += window.shape[1] - 1
    return math.exp(total / n)


@torch.no_grad()
def reply_perplexity(model: Qwen3MoeForCausalLM, tokenizer: Tokenizer, rng: random.Random) -> float:
    """Of the replies (everything that the model itself writes) in conversations it has not seen."""
    total, n = 0.0, 0
    for _ in range(60):
        pieces = [(tokenizer.encode(text).ids, weight) for text, weight in dialogues.make(rng)]
        ids = torch.tensor([[token for tokens, _ in pieces for token in tokens]])
        is_reply = torch.tensor([weight == 1.0 for tokens, weight in pieces for _ in tokens])[1:]
        logprobs = torch.log_softmax(model(ids).logits[0, :-1], dim=-1).gather(1, ids[0, 1:, None]).squeeze(1)
        total -= logprobs[is_reply].sum().item()
        n += int(is_reply.sum())
    return math.exp(total / n)


@torch.no_grad()
def generate(model: Qwen3MoeForCausalLM, tokenizer: Tokenizer, prompts: list[str], sampled: bool) -> list[str]:
    """The replies, special tokens included, so that a reply that stopped by itself ends in `<|im_end|>`."""
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    longest = max(map(len, encoded))
    end = token_id(tokenizer, "<|endoftext|>")
    ids = torch.tensor([[end] * (longest - len(row)) + row for row in encoded])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded])
    how: dict[str, object] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampled:
        torch.manual_seed(1)
        how = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    out: Tensor = model.generate(ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **how)
    replies = tokenizer.decode_batch(out[:, longest:].tolist(), skip_special_tokens=False)
    return [reply.replace("<|endoftext|>", "") for reply in replies]


def _cases(rng: random.Random) -> list[tuple[str, str, str]]:
    """(prompt, mode, what the answer must contain): every question in both modes, and generated conversations."""
    cases = []
    for question, wanted in QUESTIONS:
        head = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        cases += [(head, "think", wanted), (head + "<think>\n\n</think>\n\n", "plain", wanted)]
    for _ in range(N_GENERATED):
        talk = dialogues.dialogue(rng)
        text = "".join(piece for piece, _ in dialogues.segments(talk))
        head, _, reply = text.rpartition("<|im_start|>assistant\n")
        head += "<|im_start|>assistant\n"
        if talk.mode == "no_think_template":
            head, reply = head + "<think>\n\n</think>\n\n", reply.removeprefix("<think>\n\n</think>\n\n")
        wanted = reply.rpartition("</think>\n\n")[2].removesuffix("<|im_end|>\n")
        cases.append((head, "plain" if talk.mode == "no_think_template" else "think", wanted))
    return cases


def conversations(model: Qwen3MoeForCausalLM, tokenizer: Tokenizer) -> dict[str, object]:
    """Shares of replies that end well, greedily and sampled, and the greedy replies themselves."""
    cases = _cases(random.Random(UNSEEN_SEED + 1))
    found: dict[str, object] = {"n_prompts": len(cases)}
    for how in ("greedy", "sampled"):
        replies = generate(model, tokenizer, [prompt for prompt, _, _ in cases], how == "sampled")
        stopped = [reply.endswith("<|im_end|>") for reply in replies]
        closed = [
            reply.count("</think>") == (mode == "think") for reply, (_, mode, _) in zip(replies, cases, strict=True)
        ]
        answers = [reply.rpartition("</think>")[2] for reply in replies]
        right = [bool(wanted) and wanted in answer for answer, (_, _, wanted) in zip(answers, cases, strict=True)]
        n_known = sum(bool(wanted) for _, _, wanted in cases)
        found[how] = {
            "stopped": round(float(np.mean(stopped)), 3),
            "thinking_closed": round(float(np.mean(closed)), 3),
            "ended_well": round(float(np.mean(np.logical_and(stopped, closed))), 3),
            "right": round(sum(right) / n_known, 3),
        }
        found[f"{how}_replies"] = [[prompt, reply] for (prompt, _, _), reply in zip(cases, replies, strict=True)]
    return found


def measure(folder: Path, held_out: dict[str, list[str]]) -> dict[str, object]:
    """All figures of the model in `folder`."""
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    groups = {language: held_out[language] for language in TEXT_SHARES}
    groups["other"] = [text for language, texts in held_out.items() if language not in TEXT_SHARES for text in texts]
    ppl = {}
    for language, texts in groups.items():
        random.Random(1).shuffle(shuffled := list(texts))
        ppl[language] = round(perplexity(model, tokenizer.encode("\n\n".join(shuffled)).ids), 1)
    mean = math.exp(sum(math.log(value) for value in ppl.values()) / len(ppl))
    return {
        "perplexity": ppl,
        "perplexity_mean": round(mean, 1),
        "reply_perplexity": round(reply_perplexity(model, tokenizer, random.Random(UNSEEN_SEED + 2)), 2),
        "conversations": conversations(model, tokenizer),
    }
