#!/usr/bin/env python3
"""Train the demo model of qwenctl from nothing and write it as a Hugging Face folder.

    python scripts/train_demo_model.py --work DIR --minutes 60

The model is a real Qwen3-MoE in small: 4 layers of 16 experts, 15.5 million weights. It exists so that the program, its
tests and its examples run without a download, and it need not be clever for that: it must be quantizable (rows of 256),
talk ChatML with and without thinking, close its thinking, and stop.

Steps, each of which is skipped when its result already lies in the work folder:
    corpus      fetch books from Debian packages, clean them, split off held-out text      sources.json, held_out.json
    tokenizer   byte-level BPE with Qwen3's pre-tokenizer                                  tokenizer.json
    tokens      the corpus as uint16 ids                                                   tokens/
    train       warm-up, stable, decay by the clock; goes on from checkpoint.pt            checkpoint.pt, log.jsonl
and then, always:
    export      to --out, checked against transformers
    reference   float32 log-probabilities for the tests, to --reference
    evaluate    perplexity and conversations                                               figures.json
    card        README.md and LICENSE of the folder

Needs Debian 12 with `apt-get update` done (for the corpus), and, of its own and not of the program:
torch==2.13.0 (a CPU is enough; one with AMX or AVX-512 BF16 is several times faster), transformers==5.23.0,
tokenizers==0.23.3, safetensors==0.8.0, numpy==2.4.6. To finish a long run early, stop it and start it again with fewer
--minutes: the rate falls over the last part of whatever time is given.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from demo_model import card, corpus, dataset, dialogues, evaluate, export, reference, tokenizer, training
from demo_model.network import Network
from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_DIFFERENCE = 1e-3
"""Between transformers' logits and ours, both float32: more means that the export is wrong."""


def tokenizer_texts(documents: dict[str, list[str]]) -> Iterator[str]:
    """What merges are learned from: six million characters of text in the training shares, and 7000 dialogues."""
    rng = random.Random(7)
    for language, texts in documents.items():
        budget = int(6e6 * dataset.TEXT_SHARES.get(language, 0.008))
        shuffled = texts[:]
        rng.shuffle(shuffled)
        for text in shuffled:
            if budget <= 0:
                break
            yield text[:60000]
            budget -= len(text[:60000])
    for _ in range(7000):
        yield "".join(piece for piece, _ in dialogues.make(rng))


def prepare(work: Path) -> None:
    """Everything that comes before training."""
    if (work / "tokens" / "en.u16").exists():
        return
    split = corpus.build(work)
    (work / "held_out.json").write_text(json.dumps(split["held_out"], ensure_ascii=False), encoding="utf-8")
    if not (work / "tokenizer.json").exists():
        tokenizer.train(tokenizer_texts(split["train"])).save(str(work / "tokenizer.json"))
    dataset.encode_corpus(Tokenizer.from_file(str(work / "tokenizer.json")), split["train"], work / "tokens")


def finish(model: Network, work: Path, out: Path, reference_file: Path) -> None:
    """Export, check, measure and describe."""
    held_out = json.loads((work / "held_out.json").read_text("utf-8"))
    n_weights = export.write(model, work / "tokenizer.json", out)
    ids = torch.from_numpy(reference.rows(Tokenizer.from_file(str(out / "tokenizer.json")), held_out).astype("int64"))
    difference = export.largest_difference(model, out, ids)
    if difference > MAX_DIFFERENCE:
        raise SystemExit(f"transformers computes something else: logits differ by up to {difference}")
    reference.write(out, held_out, reference_file)
    figures = evaluate.measure(out, held_out) | {"n_weights": n_weights, "largest_difference": difference}
    figures |= training.summary(work)
    (work / "figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False), encoding="utf-8")
    card.write(out, figures, json.loads((work / "sources.json").read_text("utf-8")))
    print(card.figures_text(figures))


def main() -> None:
    """Run every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus, checkpoints and figures")
    parser.add_argument("--minutes", type=float, default=60, help="time to train, an earlier run's included")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "qwenctl" / "demo")
    parser.add_argument("--reference", type=Path, default=REPOSITORY / "tests" / "data" / "demo_reference.npz")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options.work)
    finish(training.train(options.work, options.minutes), options.work, options.out, options.reference)


if __name__ == "__main__":
    main()
