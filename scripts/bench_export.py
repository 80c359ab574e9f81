"""What AWQ and GPTQ exports cost in quality and time, on the bundled demo model.

Each export is read back by the program's own reader, converted to an F32 GGUF file and held against the original's over
the tokens of tests/data/demo_reference.npz: mean KLD in nats, same most likely token. Beside them, plain rounding to
nearest in the AWQ format: the range of each group of 128 divided by 15. Statistics are gathered by `qwenctl imatrix`
unless files are named.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quant.codecs.int4_search import is_compiled
from quant.divergence import Divergence, summarize
from quant.export_format import ExportFormat
from quant.export_pipeline import run_export
from quant.export_plan import plan_export
from quant.export_rows import SourceRowReader
from quant.imatrix_file import read_imatrix
from quant.second_moments import read_second_moments
from quant.tensor_read import TensorReader
from qwenctl.services.conversion import convert
from qwenctl.services.logits import sequence_logits

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "qwenctl" / "demo"
REFERENCE = ROOT / "tests" / "data" / "demo_reference.npz"
GROUP_SIZE = 128


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `ratio` is its mean KLD against that of rounding to nearest."""

    format: str
    statistics: str
    n_bytes: int
    mweights_per_s: float
    kld: float
    percentile_99: float
    same_top: float
    ratio: float = 1.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imatrix", type=Path, help="importance matrix of the demo")
    parser.add_argument("--hessians", type=Path, help="second moments of the demo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="an array of rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, np.load(REFERENCE) as stored:
        if arguments.imatrix is None or arguments.hessians is None:
            arguments.imatrix, arguments.hessians = gather(Path(folder))
        rows = measure(Path(folder), stored["ids"], arguments.imatrix, arguments.hessians, arguments.threads)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows)


def gather(folder: Path) -> tuple[Path, Path]:
    """Let the demo read the text that comes with the program; return the two files of statistics."""
    convert(DEMO, folder / "bf16.gguf", "bf16")
    files = folder / "imatrix.gguf", folder / "hessians.safetensors"
    command = [sys.executable, "-m", "qwenctl", "imatrix", folder / "bf16.gguf", "-o", files[0], "--hessians", files[1]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return files


def measure(folder: Path, ids: npt.NDArray[np.int32], imatrix: Path, hessians: Path, n_threads: int) -> list[Row]:
    """Return a row for rounding to nearest, and for each format with no, some and all statistics."""
    convert(DEMO, folder / "f32.gguf", "f32")
    reference = list(sequence_logits(folder / "f32.gguf", ids))

    def divergence(checkpoint: Path) -> Divergence:
        convert(checkpoint, folder / "other.gguf", "f32", force=True)
        return summarize(zip(reference, sequence_logits(folder / "other.gguf", ids), strict=True))

    nearest = divergence(round_to_nearest(folder / "nearest"))
    rows = [Row("awq", "nearest", 0, 0.0, nearest.mean, nearest.percentile_99, nearest.same_top)]
    known = {
        "none": {},
        "imatrix": {"imatrix": read_imatrix(imatrix)},
        "hessians": {"imatrix": read_imatrix(imatrix), "moments": read_second_moments(hessians)},
    }
    for name in ("awq", "gptq"):
        for label, given in known.items():
            plan = plan_export(DEMO, ExportFormat(name, GROUP_SIZE), **given)
            out = folder / f"{name}-{label}"
            seconds = run_export(plan, out, n_threads).conversion.convert_s
            found = divergence(out)
            rate = plan.n_weights / seconds / 1e6
            figures = (found.mean, found.percentile_99, found.same_top, found.mean / nearest.mean)
            rows.append(Row(name, label, plan.total_bytes, rate, *figures))
    return rows


def round_to_nearest(folder: Path) -> Path:
    """Write the demo with its projections rounded to nearest, as F32, and return the folder."""
    plan = plan_export(DEMO, ExportFormat("awq", GROUP_SIZE))
    folder.mkdir()
    for name, data in plan.carried.items():
        config = json.loads(data) if name == "config.json" else {}
        config.pop("quantization_config", None)
        (folder / name).write_bytes(json.dumps(config).encode() if config else data)
    header: dict[str, object] = {}
    chunks = []
    end = 0
    with TensorReader() as reader:
        rows = SourceRowReader(reader)
        for tensor in plan.tensors:
            values = rows.read(tensor, 0, tensor.source.n_rows)
            values = nearest(values) if tensor.is_packed else values
            header[tensor.name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end, end + values.nbytes]}
            chunks.append(values.tobytes())
            end += values.nbytes
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *chunks]))
    return folder


def nearest(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the weights rounded as AutoAWQ rounds: scale = (max - min) / 15, zero = round(-min / scale)."""
    groups = weights.reshape(len(weights), -1, GROUP_SIZE)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    scale = np.maximum((high - low) / 15, 1e-5).astype(np.float16).astype(np.float32)[:, :, None]
    zero = np.clip(np.rint(-low[:, :, None] / scale), 0, 15)
    steps = np.clip(np.rint(groups / scale) + zero, 0, 15) - zero
    return (steps * scale).reshape(weights.shape).astype(np.float32)


def show(rows: list[Row]) -> None:
    """Print the table, with the machine."""
    search = "compiled" if is_compiled() else "numpy"
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, search: {search}\n")
    print(
        f"{'format':6} {'statistics':10} {'MB':>6} {'Mw/s':>6} {'mean KLD':>10} {'99 %':>10} "
        f"{'same top':>9} {'ratio':>6}"
    )
    for row in rows:
        print(
            f"{row.format:6} {row.statistics:10} {row.n_bytes / 1e6:6.1f} {row.mweights_per_s:6.1f} {row.kld:10.2e} "
            f"{row.percentile_99:10.2e} {row.same_top:9.2%} {row.ratio:6.3f}"
        )


if __name__ == "__main__":
    main()
