#!/usr/bin/env python3
"""What our encoders, conversions and types are worth beside llama.cpp's; `make bench-quant`.

    scripts/bench_quant.py                     everything: encoders, a whole conversion, size and KLD of every type
    scripts/bench_quant.py --quick             encoders only, on fewer weights: under a minute
    scripts/bench_quant.py --parts quality     one part
    scripts/bench_quant.py --json              an array: the encoders' rows, or those of the one part named

Ratios are measured side by side in one run. The machine may be shared: rates are of CPU time, medians of several turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from quant_bench.conversion import measure_conversion, show_conversion
from quant_bench.encoders import measure_encoders, show_encoders
from quant_bench.quality import demo_imatrix, held_out_chunks, measure_quality, plot_quality, show_quality

from quant.codecs.fast import load_fast_encoders
from quant.libggml import load_libggml
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.machine_limits import usable_cores

PARTS = ("encoders", "conversion", "quality")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="encoders only, on fewer weights")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--turns", type=int, default=0, help="default 5, with --quick 3")
    parser.add_argument(
        "--plot", type=Path, default=Path("build/quant"), help="PREFIX.png and .svg of the quality part"
    )
    parser.add_argument("--imatrix", type=Path, help="of the demo; default: gathered first, which takes minutes")
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--json", action="store_true", help="an array of rows")
    options = parser.parse_args()
    parts = options.parts or (("encoders",) if options.quick or options.json else PARTS)
    if options.json and len(parts) > 1:
        parser.error("--json prints the rows of one part")
    if not options.json:
        print(versions() + "\n")
    for part in parts:
        rows, text = PART_FUNCTIONS[part](options)
        print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else text + "\n")
        sys.stdout.flush()


def note(text: str) -> None:
    """Say what is being measured."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr)


def versions() -> str:
    """The machine and what runs on it."""
    lib, fast = load_libggml(), load_fast_encoders()
    isa = "not compiled" if fast is None else fast.isa
    return f"{cpu_name()}, Python {platform.python_version()}, ggml {lib.version} ({lib.commit}), encoders {isa}"


def encoders(options: argparse.Namespace) -> tuple[list, str]:
    """Encoders beside ggml's."""
    turns = options.turns or (3 if options.quick else 5)
    rows = measure_encoders(load_libggml(), 1 << (17 if options.quick else 20), turns, note)
    return rows, show_encoders(rows)


def conversion(options: argparse.Namespace) -> tuple[list, str]:
    """A whole conversion beside the usual two steps, on a synthetic MoE."""
    with tempfile.TemporaryDirectory(prefix="bench-quant-", dir=options.work) as folder:
        source = Path(folder) / "checkpoint"
        shape = ["--shape", "30b", "--layers", "2", "--vocab", "32768"]
        script = Path(__file__).with_name("make_synthetic_moe.py")
        subprocess.run([sys.executable, script, *shape, source], check=True, stdout=subprocess.DEVNULL)
        row = measure_conversion(source, Path(folder), options.turns or 3, usable_cores(), note)
    return [row], show_conversion(row)


def quality(options: argparse.Namespace) -> tuple[list, str]:
    """Size and KLD of every type on the demo, as a table and a plot."""
    with tempfile.TemporaryDirectory(prefix="bench-quant-", dir=options.work) as folder:
        imatrix = options.imatrix or demo_imatrix(Path(folder), note)
        rows = measure_quality(Path(folder), imatrix, held_out_chunks(Path(folder)), note)
    text = show_quality(rows)
    if importlib.util.find_spec("matplotlib") is None:
        return rows, text + "\n\nno plot: pip install -e '.[bench]'"
    return rows, text + "\n\n" + "\n".join(map(str, plot_quality(rows, options.plot)))


PART_FUNCTIONS = {"encoders": encoders, "conversion": conversion, "quality": quality}

if __name__ == "__main__":
    main()
