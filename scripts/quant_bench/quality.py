"""Size and KLD of every type, preset and budget on the demo, with llama.cpp's encoders and with ours.

Mean and 99.9 % KLD in nats against our F32 GGUF, over held-out text that neither the importance matrix nor the fit of
sensitivities has seen. `llama` rows are the bytes that llama.cpp's own quantizer writes (--quality exact).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quant.budget import Budget
from quant.conversion_plan import ConversionSource, Importance, read_source
from quant.divergence import token_divergence
from quant.imatrix_file import read_imatrix
from quant.recipe import OUTPUT_TYPES, STOCK_TYPES
from qwenctl.services.conversion import write_plan
from qwenctl.services.evaluation_text import chunks_of, shipped_text
from qwenctl.services.logits import sequence_logits
from qwenctl.services.type_choice import TypeRequest, choose_plan

from .weights import ROOT

N_CTX = 512
DEMO = ROOT / "qwenctl" / "demo"
BUDGET_SIZES = (0.90, 0.92, 0.95, 1.0, 1.1)
"""Of stock Q4_K_M's file."""


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One file. `encoder`: llama, fast or best."""

    type: str
    imatrix: bool
    encoder: str
    n_bytes: int
    bits_per_weight: float
    mean_kld: float
    kld_999: float
    same_top: float


def held_out_chunks(folder: Path) -> npt.NDArray[np.int32]:
    """Return the text that `qwenctl eval` uses where none is named, and the conversations that the demo never saw.

    i32 (n_chunks, 512).
    """
    vocabulary = folder / "vocabulary.gguf"
    write_plan(choose_plan(read_source(DEMO), TypeRequest("q8_0"), None).plan, vocabulary)
    shipped = chunks_of(shipped_text(), vocabulary, N_CTX, None).inputs()
    with np.load(ROOT / "tests" / "data" / "demo_reference.npz") as stored:
        conversations = stored["ids"].reshape(-1, N_CTX)
    return np.concatenate([shipped, conversations])


def measure_quality(
    folder: Path,
    imatrix: Path,
    ids: npt.NDArray[np.int32],
    note: Callable[[str], None] = lambda _: None,
) -> list[QualityRow]:
    """Return a row a file.

    Args:
        folder: for files; each is gone again when it was measured.
        imatrix: of the demo.
        ids: held-out text, i32 (n_sequences, n_tokens).
        note: called with what is being measured.
    """
    source = read_source(DEMO)
    bench = _Bench(source, folder, ids, note)
    importance = Importance(read_imatrix(imatrix), imatrix.name)
    return list(bench.rows(importance))


def demo_imatrix(folder: Path, note: Callable[[str], None] = lambda _: None) -> Path:
    """Gather the demo's importance matrix from its BF16 GGUF, over all of the calibration text; return the file."""
    note("importance matrix")
    bf16, out = folder / "bf16.gguf", folder / "demo.imatrix.gguf"
    write_plan(choose_plan(read_source(DEMO), TypeRequest("bf16"), None).plan, bf16)
    subprocess.run([sys.executable, "-m", "qwenctl", "imatrix", bf16, "-o", out, "--quiet"], check=True)
    return out


class _Bench:
    """Makes a file, measures it, removes it."""

    def __init__(
        self, source: ConversionSource, folder: Path, ids: npt.NDArray[np.int32], note: Callable[[str], None]
    ) -> None:
        self._source, self._path, self._ids, self._note = source, folder / "tried.gguf", ids, note
        write_plan(choose_plan(source, TypeRequest("f32"), None).plan, self._path)
        self._reference = list(sequence_logits(self._path, ids))
        self._half = ids.shape[1] // 2  # as llama-perplexity: the first half of a chunk is context

    def rows(self, importance: Importance) -> Iterator[QualityRow]:
        for name, output in OUTPUT_TYPES.items():
            if not output.is_quantized:
                continue
            for weighed in (None, importance):
                for encoder in ("llama", "fast", "best"):
                    if encoder != "llama" or name in STOCK_TYPES:
                        yield self._row(name, TypeRequest(name, quality=_quality(encoder)), weighed, encoder)
        stock = choose_plan(self._source, TypeRequest("q4_k_m"), importance).plan.total_bytes
        for share in BUDGET_SIZES:
            for weighed in (None, importance):
                request = TypeRequest(budget=Budget(n_bytes=int(share * stock)))
                yield self._row(f"budget {share:.0%}", request, weighed, "fast")

    def _row(self, name: str, request: TypeRequest, importance: Importance | None, encoder: str) -> QualityRow:
        self._note(f"{name}, {encoder}{'' if importance is None else ', imatrix'}")
        plan = choose_plan(self._source, request, importance).plan
        write_plan(plan, self._path, quality=request.quality, force=True, restart=True)
        klds, same = [], []
        for ours, reference in zip(sequence_logits(self._path, self._ids), self._reference, strict=True):
            klds.append(token_divergence(reference[self._half :], ours[self._half :]))
            same.append(ours[self._half :].argmax(axis=-1) == reference[self._half :].argmax(axis=-1))
        kld = np.concatenate(klds)
        return QualityRow(
            name,
            importance is not None,
            encoder,
            plan.total_bytes,
            plan.bits_per_weight,
            float(kld.mean()),
            float(np.percentile(kld, 99.9)),
            float(np.concatenate(same).mean()),
        )


def _quality(encoder: str) -> str:
    return "exact" if encoder == "llama" else encoder


def show_quality(rows: Iterable[QualityRow]) -> str:
    """Return the table as text, by size."""
    lines = [
        f"{'type':12} {'imatrix':7} {'encoder':7} {'MB':>6} {'bpw':>5} {'mean KLD':>9} {'99.9 %':>8} {'same top':>8}"
    ]
    lines += [
        f"{row.type:12} {'yes' if row.imatrix else 'no':7} {row.encoder:7} {row.n_bytes / 1e6:6.2f} "
        f"{row.bits_per_weight:5.2f} {row.mean_kld:9.2e} {row.kld_999:8.3f} {row.same_top:8.2%}"
        for row in sorted(rows, key=lambda row: (row.n_bytes, row.mean_kld))
    ]
    return "\n".join(lines)


def plot_quality(rows: Iterable[QualityRow], prefix: Path) -> list[Path]:
    """Draw size against mean KLD; return the files written. Needs the extra `bench`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    marks = {"llama": ("o", "tab:gray"), "fast": ("^", "tab:blue"), "best": ("s", "tab:green")}
    figure, axes = pyplot.subplots(figsize=(10, 7))
    for encoder, (mark, color) in marks.items():
        for imatrix in (False, True):
            some = [row for row in rows if row.encoder == encoder and row.imatrix == imatrix]
            label = f"{'llama.cpp' if encoder == 'llama' else f'ours, {encoder}'}{', imatrix' if imatrix else ''}"
            axes.scatter(
                [row.n_bytes / 1e6 for row in some],
                [row.mean_kld for row in some],
                marker=mark,
                edgecolors=color,
                facecolors=color if imatrix else "none",
                label=label,
            )
    named = [row for row in rows if row.imatrix and row.encoder in {"llama", "fast"}]
    for row in named:
        if row.encoder == "llama" or row.type not in STOCK_TYPES:
            axes.annotate(
                row.type, (row.n_bytes / 1e6, row.mean_kld), fontsize=7, xytext=(4, 4), textcoords="offset points"
            )
    axes.set(yscale="log", xlabel="MB", ylabel="mean KLD, nats", title="The demo: size against divergence from F32")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    paths = [prefix.with_suffix(".png"), prefix.with_suffix(".svg")]
    for path in paths:
        figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return paths
