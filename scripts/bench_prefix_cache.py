"""How much sooner the second question about a document is answered: from memory, and from disk after a restart.

    python scripts/bench_prefix_cache.py                        SmolLM2 of the test set-up, 20,000 tokens, 3 rounds
    python scripts/bench_prefix_cache.py --tokens 4000 --rounds 1 --model model.gguf

Each round starts with an empty cache: a first question, a second one to the same engine, and a third one to an engine
that was opened anew. Prints the seconds to the first token of each, medians, and how many times faster. The file that
was written lies in the page cache when it is read, as it does for a user who asks again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench_batch import smollm2

from qwenctl.core import Finished, GenerationRequest, SamplingParams
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.prefix_cache.prefix_store import stored_files

QUESTIONS = ("Which entry is the first?", "How many entries are there?", "Which entry would you remove?")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    path = args.model or smollm2()
    rounds = [one_round(path, args.tokens, args.threads) for _ in range(args.rounds)]
    first, memory, disk = (median(seconds[index] for seconds in rounds) for index in range(3))
    n_bytes = int(median(seconds[3] for seconds in rounds))
    if args.json:
        values = {"model": path.name, "tokens": args.tokens, "first_s": first, "memory_s": memory, "disk_s": disk}
        print(json.dumps(values | {"file_bytes": n_bytes, "rounds": args.rounds}))
        return
    print(f"{path.name}, a document of {args.tokens:,} tokens, median of {args.rounds}: seconds to the first token")
    print(f"  first question            {first:9.2f}")
    print(f"  second, same engine       {memory:9.2f}   {first / memory:6.0f} times faster")
    print(f"  third, after a restart    {disk:9.2f}   {first / disk:6.0f} times faster   ({n_bytes / 1e6:.0f} MB read)")


def one_round(path: Path, n_tokens: int, n_threads: int | None) -> tuple[float, float, float, int]:
    """Return the seconds of three questions, and the bytes of the file that the last one came from."""
    with tempfile.TemporaryDirectory() as folder:
        cache = PrefixCacheOptions(Path(folder) / "prefixes", 1 << 40)
        options = EngineOptions(n_ctx=n_tokens + 1024, n_threads=n_threads, prefix_cache=cache)
        with Engine.open(path, options) as engine:
            document = document_of(engine, n_tokens)
            first, memory = (seconds(engine, document, question) for question in QUESTIONS[:2])
        n_bytes = max(file.file_bytes for file in stored_files(cache.folder))
        with Engine.open(path, options) as engine:
            disk = seconds(engine, document, QUESTIONS[2], from_disk=True)
    return first, memory, disk, n_bytes


def document_of(engine: Engine, n_tokens: int) -> tuple[int, ...]:
    """Return that many tokens of text in which every line is different."""
    lines, n_lines = "", 0
    while len(tokens := engine.tokenize(lines)) < n_tokens:
        lines += "".join(
            f"Entry {n}: the reading of station {n * 7919 % 1000} was {n * 31 % 97}.\n"
            for n in range(n_lines, n_lines + 200)
        )
        n_lines += 200
    return tokens[:n_tokens]


def seconds(engine: Engine, document: tuple[int, ...], question: str, *, from_disk: bool = False) -> float:
    """Ask, and return the seconds to the first token."""
    prompt = (*document, *engine.tokenize(f"\n\n{question}\n"))
    request = GenerationRequest("one", prompt, SamplingParams(temperature=0), max_tokens=4)
    end = next(event for event in engine.generate(request) if isinstance(event, Finished))
    if from_disk and end.usage.n_from_disk < len(document):
        sys.exit(f"only {end.usage.n_from_disk} tokens came from the disk")
    return end.timing.queued_s + end.timing.prefill_s


if __name__ == "__main__":
    main()
