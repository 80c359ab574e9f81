# ruff: noqa: E501 - Markdown
"""The model card and licence note that lie beside the weights."""

from pathlib import Path

LICENSE = """The weights, configuration, tokenizer and chat template in this folder were made by the authors of qwenctl with
scripts/train_demo_model.py and are offered under the Apache License 2.0, like the program itself.

The model was trained on text from freely licensed Debian packages (listed with their licences in README.md) and on
conversations written by scripts/demo_model/dialogues.py. None of those texts is contained in this folder. The tests'
tests/data/demo_reference.npz quotes five passages of 256 tokens each from the packages' held-out text, as token ids.
"""

CARD = """---
license: apache-2.0
language: [en, de, fr, es, it, pt, ru, ja, zh]
library_name: transformers
pipeline_tag: text-generation
---

# The qwenctl demo model

A Qwen3-MoE in small (`Qwen3MoeForCausalLM`), for trying out and testing qwenctl without a download. It answers simple
questions about capitals, colours, animals, numbers and common words, and little else; it knows nothing of the world
and is wrong with confidence. Do not use it for anything but trying out software.

| | |
|---|---|
| weights | {n_weights:,} (bf16, two safetensors files) |
| layers, hidden size | 4, 256 |
| attention | 4 heads of 64, 2 key-value heads, q and k normalised |
| experts | 16 a layer, 4 chosen, inner size 256 |
| vocabulary | 4080 tokens (byte-level BPE with Qwen3's pre-tokenizer and chat tokens), 4096 rows |
| context | 2048 positions; trained on windows of 256 to 1024 tokens |

Every row is a multiple of 256 long, so each K-quant type applies to every matrix.

## Figures

Measured by the training script with transformers in float32.

{figures}

## How it was trained

`python scripts/train_demo_model.py --work DIR --minutes 60` fetches the text, trains the tokenizer and the model, and writes
this folder. This copy: {n_steps:,} steps, {n_tokens:,} tokens, {minutes:.0f} minutes on two shared CPU cores (bf16 products, Muon and Adam).
The weights are whatever the clock allowed, so a rerun gives a similar model, not the same one.

Somewhat less than half of the tokens were plain text, the others conversations written by a program
(`scripts/demo_model/dialogues.py`): one or several turns, with thinking, without it, with `/think` and `/no_think`, and some with tools.

Plain text, from Debian packages:

| package | version | licence |
|---|---|---|
{sources}

The chat template is our own text and renders what Qwen3's template renders.
"""


def figures_text(figures: dict) -> str:
    """The figures as Markdown tables."""
    languages = figures["perplexity"]
    lines = [
        "Perplexity a token of held-out text (uniform would be 4096):",
        "",
        "| " + " | ".join(languages) + " | geometric mean |",
        "|" + "---|" * (len(languages) + 1),
        "| " + " | ".join(str(value) for value in languages.values()) + f" | {figures['perplexity_mean']} |",
        "",
        f"Perplexity of its own replies in conversations it has not seen: {figures['reply_perplexity']}.",
        "",
        f"{figures['conversations']['n_prompts']} chat prompts, thinking and not, at most 200 new tokens:",
        "",
        "| | stops by itself | thinking closed once | both | answer as expected |",
        "|---|---|---|---|---|",
    ]
    for how, name in (("greedy", "greedy"), ("sampled", "temperature 0.6, top-p 0.95, top-k 20")):
        row = figures["conversations"][how]
        shares = (f"{100 * row[key]:.0f} %" for key in ("stopped", "thinking_closed", "ended_well", "right"))
        lines.append(f"| {name} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def write(folder: Path, figures: dict, sources: list[dict[str, str]]) -> None:
    """README.md and LICENSE in `folder`."""
    rows = "\n".join(f"| {row['package']} | {row['version']} | {row['licence']} |" for row in sources)
    text = CARD.format(
        figures=figures_text(figures),
        sources=rows,
        **{k: figures[k] for k in ("n_weights", "n_steps", "n_tokens", "minutes")},
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")
