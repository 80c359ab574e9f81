"""What each output type costs in quality, on the bundled demo model; `make bench-kld`.

First the conversion itself: our F32 file against log-probabilities that `transformers` computed in f32 from the same
weights (tests/data/demo_reference.npz). llama.cpp keeps its KV cache in F16, which bounds how close that can be.
Then every type against our F32 file, over the same tokens, beside the file that llama.cpp's own quantizer makes of our
BF16 GGUF: mean KLD in nats, same most likely token, and whether all tensors are equal byte for byte, as they must be
with `--quality exact`. What our own encoders lose is in scripts/bench_quant.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quant.divergence import Divergence, summarize
from quant.gguf_read import read_gguf
from quant.libggml import load_libggml
from quant.recipe import STOCK_TYPES
from qwenctl.services.conversion import convert
from qwenctl.services.logits import sequence_logits
from qwenctl.services.quantization import quantize

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "qwenctl" / "demo"
REFERENCE = ROOT / "tests" / "data" / "demo_reference.npz"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    type: str
    n_bytes: int
    bits_per_weight: float
    kld: float
    same_top: float
    llama_kld: float
    llama_same_top: float
    tensors_identical: bool


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=list(STOCK_TYPES), choices=list(STOCK_TYPES), metavar="TYPE")
    parser.add_argument("--json", action="store_true", help="an object with `transformers` and `rows`")
    arguments = parser.parse_args()
    with np.load(REFERENCE) as stored, tempfile.TemporaryDirectory() as folder:
        against_transformers, rows = measure(
            Path(folder), arguments.types, stored["ids"], stored["logprobs"], stored["top"]
        )
    if arguments.json:
        document = {"transformers": asdict(against_transformers), "rows": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=2))
    else:
        show(against_transformers, rows)


def measure(
    folder: Path,
    types: Iterable[str],
    ids: npt.NDArray[np.int32],
    expected: npt.NDArray[np.floating],
    top: npt.NDArray[np.int32],
) -> tuple[Divergence, list[Row]]:
    """Return the divergence of our F32 file from `expected`, and a row for each type.

    `top` (n_sequences, n_tokens) is the reference's most likely token: `expected` is stored in f16, which makes ties.
    """
    bf16, f32 = folder / "bf16.gguf", folder / "f32.gguf"
    convert(DEMO, bf16, "bf16")
    convert(DEMO, f32, "f32")
    reference = list(sequence_logits(f32, ids))
    same_top = np.mean([(ours.argmax(axis=-1) == best).mean() for ours, best in zip(reference, top, strict=True)])
    against_transformers = replace(summarize(zip(expected, reference, strict=True)), same_top=float(same_top))
    rows = []
    for name in types:
        ours, theirs = folder / f"{name}-ours.gguf", folder / f"{name}-llama.gguf"
        result = convert(DEMO, ours, name, quality="exact")
        quantize(bf16, theirs, name)
        divergence = summarize(zip(reference, sequence_logits(ours, ids), strict=True))
        llama = summarize(zip(reference, sequence_logits(theirs, ids), strict=True))
        rows.append(
            Row(
                name,
                result.n_bytes,
                result.bits_per_weight,
                divergence.mean,
                divergence.same_top,
                llama.mean,
                llama.same_top,
                same_tensors(ours, theirs),
            )
        )
    return against_transformers, rows


def same_tensors(one: Path, other: Path) -> bool:
    """Tell whether both files hold the same tensors: names, types, shapes, bytes."""
    left, right = read_gguf(one).tensors, read_gguf(other).tensors
    if left.keys() != right.keys():
        return False
    with one.open("rb") as left_file, other.open("rb") as right_file:
        for name, info in left.items():
            twin = right[name]
            left_file.seek(info.offset_bytes)
            right_file.seek(twin.offset_bytes)
            same_kind = (info.dtype, info.shape, info.n_bytes) == (twin.dtype, twin.shape, twin.n_bytes)
            if not same_kind or left_file.read(info.n_bytes) != right_file.read(twin.n_bytes):
                return False
    return True


def show(against_transformers: Divergence, rows: list[Row]) -> None:
    """Print the table, with machine and versions."""
    lib = load_libggml()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, ggml {lib.version}")
    print(
        f"F32 GGUF against transformers: mean KLD {against_transformers.mean:.2e}, "
        f"same top token {against_transformers.same_top:.2%} of {against_transformers.n_tokens} tokens\n"
    )
    head = f"{'mean KLD':>10} {'same top':>9}"
    print(f"{'type':10} {'MB':>6} {'bpw':>6} {head} | {head}  tensors")
    for row in rows:
        print(
            f"{row.type:10} {row.n_bytes / 1e6:6.1f} {row.bits_per_weight:6.2f} {row.kld:10.2e} {row.same_top:9.2%} | "
            f"{row.llama_kld:10.2e} {row.llama_same_top:9.2%}  {'identical' if row.tensors_identical else 'DIFFERENT'}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
