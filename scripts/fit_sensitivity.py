#!/usr/bin/env python3
"""Measure what a relative error in each family of tensors costs the demo: the table of quant/sensitivity.py.

One family at a time is written in Q4_K and in Q3_K, everything else in F32; KLD is measured against F32. The slope
between the two is the family's sensitivity, summed over layers; what is left at no error at all is the divergence of
quantized activations, which no choice of types changes.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import plan_source, read_source
from quant.divergence import summarize
from quant.ggml_types import GGML_TYPES
from quant.libggml import load_libggml
from quant.pipeline import run_plan
from quant.recipe import OUTPUT_TYPES, is_fixed
from quant.tensor_families import family_of
from quant.tensor_names import TargetTensor
from quant.tensor_read import TensorReader
from quant.type_error import relative_errors
from qwenctl.services.logits import sequence_logits

ROOT = Path(__file__).resolve().parent.parent
TYPES = ("Q4_K", "Q3_K")


def main() -> None:
    """Measure and print, a family a line."""
    source = read_source(ROOT / "qwenctl" / "demo")
    encoder = make_row_encoder(load_libggml())
    with np.load(ROOT / "tests" / "data" / "demo_reference.npz") as stored:
        ids = stored["ids"]
    families: dict[str, list[TargetTensor]] = defaultdict(list)
    for target in source.targets:
        if not is_fixed(target.name, target.shape):
            families[family_of(target.name)].append(target)
    plain = dict.fromkeys(source.shapes, GGML_TYPES["F32"])
    with tempfile.TemporaryDirectory() as folder, TensorReader() as reader:
        path = Path(folder) / "tried.gguf"

        def logits(types: dict) -> list:
            plan = plan_source(source, OUTPUT_TYPES["f32"], types=types)
            run_plan(plan, path, encoder, 2, force=True, restart=True)
            return list(sequence_logits(path, ids))

        reference = logits(plain)
        print(f"{'family':16} {'KLD Q4_K':>10} {'KLD Q3_K':>10} {'sensitivity':>11} {'at no error':>11}")
        for family, targets in families.items():
            errors, klds = [], []
            for name in TYPES:
                kind = GGML_TYPES[name]
                each = [relative_errors(target, [kind], None, reader, encoder)[name] for target in targets]
                errors.append(sum(each) / len(each))
                types = plain | {target.name: kind for target in targets}
                klds.append(summarize(zip(reference, logits(types), strict=True)).mean)
            slope = (klds[1] - klds[0]) / (errors[1] - errors[0])
            print(f"{family:16} {klds[0]:10.2e} {klds[1]:10.2e} {slope:11.3f} {klds[0] - slope * errors[0]:11.1e}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
