#!/usr/bin/env python3
"""Measure conversion: weights a second beside llama.cpp's own quantizer, memory, and what a SIGKILL does.

    scripts/bench_convert.py                              a synthetic MoE of 1.5 GB, made and removed
    scripts/bench_convert.py CHECKPOINT --runs 5          rate: our one pass (BF16 safetensors → --type) against
                                                          llama_model_quantize on our BF16 GGUF, in turns; medians
    scripts/bench_convert.py CHECKPOINT --limit-mib 1100  the same under a cgroup's memory limit, page cache included
    scripts/bench_convert.py CHECKPOINT --kill 20         20 conversions, each killed at a random moment and resumed
    scripts/bench_convert.py CHECKPOINT --kill 20 --chain one conversion, killed 20 times

Ours is timed from the first byte to the rename: encoding, syncing to disk, and reading everything back for the
digests. llama_model_quantize is timed as the call alone; it neither syncs nor reads back. CPU seconds are those of the
whole process in both cases, and hold still when the machine is shared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from quant.libggml import load_libggml
from quant.recipe import OUTPUT_TYPES
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.machine_limits import usable_cores

SCRIPTS = Path(__file__).resolve().parent
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")  # version 1; version 2 needs a delegated subtree

LLAMA = """
import ctypes, json, sys, time
import llama_cpp
from qwenctl.services.machine_limits import peak_rss_bytes
from qwenctl.services.quantize_worker import Request, quantize
quiet = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
request = Request(**json.loads(sys.argv[1]))
started = time.monotonic()
status = quantize(request)
seconds = time.monotonic() - started
print(json.dumps({"status": status, "seconds": seconds, "peak_rss_bytes": peak_rss_bytes()}))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One conversion. `convert_s` of ours is without reading back."""

    seconds: float
    convert_s: float
    cpu_s: float
    peak_rss_bytes: int


def timed_child(command: list[str], cgroup: Path | None = None) -> tuple[str, float]:
    """Run a child; return its output and its CPU seconds."""
    if cgroup is not None:
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs"), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} … exited {process.returncode}: {output}")
    return output, usage.ru_utime + usage.ru_stime


def convert_command(source: Path, out: Path, output_type: str, n_threads: int) -> list[str]:
    """Our program's command line."""
    words = ["convert", str(source), str(out), "--type", output_type, "--threads", str(n_threads), "--json", "--quiet"]
    return [sys.executable, "-m", "qwenctl", *words]


def run_ours(source: Path, out: Path, output_type: str, n_threads: int, cgroup: Path | None = None) -> tuple[Run, int]:
    """Convert; return the figures and the number of weights."""
    out.unlink(missing_ok=True)
    output, cpu_s = timed_child(convert_command(source, out, output_type, n_threads), cgroup)
    result = json.loads(output)
    convert_s = result["n_weights"] / result["weights_per_s"]
    return Run(result["seconds"], convert_s, cpu_s, result["peak_rss_bytes"]), result["n_weights"]


def run_llama(source: Path, out: Path, output_type: str, n_threads: int) -> Run:
    """Quantize our BF16 GGUF with llama_model_quantize."""
    out.unlink(missing_ok=True)
    request = {
        "source": str(source),
        "out": str(out),
        "ftype_id": OUTPUT_TYPES[output_type].ftype_id,
        "n_threads": n_threads,
        "alignment": 4096,
        "allow_requantize": False,
        "dry_run": False,
    }
    output, cpu_s = timed_child([sys.executable, "-c", LLAMA, json.dumps(request)])
    result = json.loads(output)
    if result["status"]:
        raise SystemExit(f"llama_model_quantize returned {result['status']}")
    return Run(result["seconds"], result["seconds"], cpu_s, result["peak_rss_bytes"])


def bench_rate(source: Path, work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Both ways in turns, in the order ours, theirs, theirs, ours, …; medians and their ratio."""
    print("making the BF16 GGUF that llama_model_quantize starts from …", file=sys.stderr)
    _, n_weights = run_ours(source, work / "bf16.gguf", "bf16", options.threads)
    ours, llama = [], []
    for number in range(options.runs):
        for who in ("ours", "llama") if number % 2 == 0 else ("llama", "ours"):
            if who == "ours":
                ours.append(run_ours(source, work / "ours.gguf", options.type, options.threads)[0])
            else:
                llama.append(run_llama(work / "bf16.gguf", work / "llama.gguf", options.type, options.threads))
            last = (ours if who == "ours" else llama)[-1]
            print(f"{who:6} {n_weights / last.seconds / 1e6:6.2f} M weights/s, {last.cpu_s:.1f} s CPU", file=sys.stderr)

    def median(runs: list[Run], figure: str) -> float:
        return float(statistics.median(getattr(run, figure) for run in runs))

    return {
        "n_weights": n_weights,
        "type": options.type,
        "ours_weights_per_s": n_weights / median(ours, "seconds"),
        "ours_encoding_weights_per_s": n_weights / median(ours, "convert_s"),
        "llama_weights_per_s": n_weights / median(llama, "seconds"),
        "ratio": median(llama, "seconds") / median(ours, "seconds"),
        "ratio_encoding": median(llama, "seconds") / median(ours, "convert_s"),
        "ratio_of_cpu_seconds": median(llama, "cpu_s") / median(ours, "cpu_s"),
        "ours_peak_rss_bytes": max(run.peak_rss_bytes for run in ours),
        "llama_peak_rss_bytes": max(run.peak_rss_bytes for run in llama),
        "ours": [asdict(run) for run in ours],
        "llama": [asdict(run) for run in llama],
    }


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[Path]:
    """Make a cgroup with a limit; remove it afterwards."""
    cgroup = MEMORY_CGROUP / f"qwenctl-bench-{os.getpid()}"
    try:
        cgroup.mkdir()
        (cgroup / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError as error:
        raise SystemExit(f"no memory limit can be set here ({error}); it takes root and cgroup version 1") from error
    try:
        yield cgroup
    finally:
        cgroup.rmdir()


def bench_limit(source: Path, work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Convert under a limit that counts the page cache too."""
    with memory_limit(options.limit_mib << 20) as cgroup:
        run, n_weights = run_ours(source, work / "limited.gguf", options.type, options.threads, cgroup)
        return {
            "n_weights": n_weights,
            "limit_bytes": options.limit_mib << 20,
            "peak_rss_bytes": run.peak_rss_bytes,
            "peak_cgroup_bytes": int((cgroup / "memory.max_usage_in_bytes").read_text()),
            "n_times_at_the_limit": int((cgroup / "memory.failcnt").read_text()),
            "weights_per_s": n_weights / run.seconds,
        }


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kill_once(command: list[str], out: Path, after_s: float) -> float:
    """Start a conversion and kill it after a while; return when. One that was faster is made again, killed earlier."""
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            return after_s
        finally:
            process.kill()
            process.wait()
        out.unlink(missing_ok=True)
        after_s *= 0.8


def bench_kill(source: Path, work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Kill at random moments of an uninterrupted run's length; compare the SHA-256 of what comes out in the end."""
    started = time.monotonic()
    run_ours(source, work / "whole.gguf", options.type, options.threads)
    whole_s = time.monotonic() - started
    expected = digest(work / "whole.gguf")
    print(f"uninterrupted: {whole_s:.1f} s, {expected}", file=sys.stderr)
    chance = random.Random(options.seed)
    out = work / "killed.gguf"
    command = convert_command(source, out, options.type, options.threads)
    digests, kills, resumed = [], [], []
    for number in range(1 if options.chain else options.kill):
        out.unlink(missing_ok=True)
        n_kills = options.kill if options.chain else 1
        for _ in range(n_kills):
            after_s = chance.uniform(0, whole_s) * (2 / n_kills if options.chain else 1)
            kills.append(round(kill_once(command, out, after_s), 2))
        if not out.exists():  # killed before the rename, nearly always
            output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, stderr=subprocess.DEVNULL)
            resumed.append(json.loads(output.stdout)["n_weights_resumed"])
        digests.append(digest(out))
        same = "same bytes" if digests[-1] == expected else f"DIFFERENT: {digests[-1]}"
        found = f"{resumed[-1] / 1e6:.1f} M weights found done" if resumed else "complete"
        print(f"{number + 1}: killed after {kills[-1]} s, {found}: {same}", file=sys.stderr)
    return {
        "whole_s": whole_s,
        "sha256": expected,
        "n_kills": len(kills),
        "n_results": len(digests),
        "n_same": digests.count(expected),
        "killed_after_s": kills,
        "n_weights_resumed": resumed,
    }


def describe_machine() -> dict[str, object]:
    """What the figures hold for."""
    lib = load_libggml()
    return {
        "cpu": cpu_name(),
        "n_cores": usable_cores(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "ggml": f"{lib.version} ({lib.commit})",
        "qwenctl": version("qwenctl"),
    }


@contextmanager
def work_folder(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Yield the checkpoint and a folder for outputs; both are removed afterwards if they were made here."""
    folder = Path(tempfile.mkdtemp(prefix="bench-convert-", dir=options.work))
    try:
        source = options.checkpoint
        if source is None:
            source = folder / "checkpoint"
            shape = ["--shape", "30b", "--layers", "1", "--vocab", "32768"]
            subprocess.run([sys.executable, SCRIPTS / "make_synthetic_moe.py", *shape, source], check=True)
        yield source, folder
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="Hugging Face folder (default: a synthetic one)")
    parser.add_argument("--type", choices=OUTPUT_TYPES, default="q4_k_m")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--runs", type=int, default=3, help="of each way (default: 3)")
    parser.add_argument("--limit-mib", type=int, help="convert once under this memory limit instead")
    parser.add_argument("--kill", type=int, metavar="N", help="kill N times instead")
    parser.add_argument("--chain", action="store_true", help="kill one conversion N times, not N once each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args()
    report: dict[str, object] = {"machine": describe_machine(), "n_threads": options.threads}
    with work_folder(options) as (source, work):
        bench = bench_kill if options.kill else bench_limit if options.limit_mib else bench_rate
        report |= bench(source, work, options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        print(f"{name:30} {value:,.2f}" if isinstance(value, float) else f"{name:30} {value}")


if __name__ == "__main__":
    main()
