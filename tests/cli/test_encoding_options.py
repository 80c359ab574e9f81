"""`qwenctl convert` with budgets, recipes, importance and quality: choices, files, errors and warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest

from quant.conversion_plan import read_source
from quant.gguf_read import read_gguf
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_file import write_imatrix
from tests.cli.conftest import Ran
from tests.quant.conversion_runs import SMALLEST, digest
from tests.tiny_checkpoint import TinyModel, write_checkpoint

Qwenctl = Callable[..., Ran]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), SMALLEST)


@pytest.fixture(scope="module")
def imatrix(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of everything but the last attention output; the second expert was never routed to."""
    rng = np.random.default_rng(0)
    entries = {}
    for name, shape in read_source(source).shapes.items():
        if len(shape) < 2 or "attn_output" in name or "token_embd" in name:
            continue
        n = prod(shape[:-2])
        counts = np.full(n, 50, np.float32)
        sums = np.exp(2 * rng.standard_normal((n, shape[-1]))).astype(np.float32)
        if n > 1:
            counts[1], sums[1] = 0, 0
        entries[name] = ImatrixEntry(sums, counts)
    path = tmp_path_factory.mktemp("imatrix") / "small.imatrix.gguf"
    write_imatrix(Imatrix(entries, ("words.txt",), 7, 512), path)
    return path


def types(path: Path) -> dict[str, str]:
    return {name: info.dtype for name, info in read_gguf(path).tensors.items()}


def test_a_budget_is_kept_and_its_recipe_makes_the_same_file(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    plan = json.loads(qwenctl("convert", source, "x", "--type", "q4_k_m", "--dry-run", "--json").stdout)
    budget, recipe, out = f"{plan['total_bytes']}B", tmp_path / "recipe.json", tmp_path / "a.gguf"
    ran = qwenctl("convert", source, out, "--budget", budget, "--recipe", recipe)
    assert ran.code == 0, ran.stderr
    assert out.stat().st_size <= plan["total_bytes"]
    again = tmp_path / "b.gguf"
    assert qwenctl("convert", source, again, "--recipe", recipe).code == 0
    assert digest(again) == digest(out)
    kinds = json.loads(recipe.read_text())["types"]
    assert types(out).items() >= kinds.items()
    assert len(set(kinds.values())) > 1


def test_dry_run_says_what_a_budget_expects(qwenctl: Qwenctl, source: Path) -> None:
    ran = qwenctl("convert", source, "x", "--budget", "5bpw", "--dry-run")
    assert "expected loss" in ran.stdout
    assert "of its expected loss" in ran.stdout
    document = json.loads(qwenctl("convert", source, "x", "--budget", "5bpw", "--dry-run", "--json").stdout)
    assert document["bits_per_weight"] <= 5
    assert 0 < document["expected"]["loss_nats"] < document["expected"]["beside"]["loss_nats"] * 2
    plain = json.loads(qwenctl("convert", source, "x", "--dry-run", "--json").stdout)
    assert plain["expected"] is None


def test_importance_changes_the_bytes_and_is_named_in_the_file(
    qwenctl: Qwenctl, source: Path, imatrix: Path, tmp_path: Path
) -> None:
    for name, options in (("a", ()), ("b", ("--imatrix", imatrix)), ("c", ("--imatrix", imatrix, "--exact"))):
        ran = qwenctl("convert", source, tmp_path / f"{name}.gguf", "--type", "q4_k_s", *options)
        assert ran.code == 0, ran.stderr
        assert ("attn_output" in ran.stderr) == (name != "a")
        assert ("no token reached 3 experts" in ran.stderr) == (name != "a")
    assert len({digest(tmp_path / f"{name}.gguf") for name in "abc"}) == 3
    metadata = read_gguf(tmp_path / "b.gguf").metadata
    assert metadata["quantize.imatrix.file"] == "small.imatrix.gguf"
    assert metadata["quantize.imatrix.dataset"] == "words.txt"
    assert metadata["quantize.imatrix.chunks_count"] == 7


def test_quality_is_part_of_what_is_resumed(qwenctl: Qwenctl, source: Path, tmp_path: Path) -> None:
    found = set()
    for quality in ("fast", "best", "exact"):
        out = tmp_path / f"{quality}.gguf"
        assert qwenctl("convert", source, out, "--quality", quality).code == 0
        found.add(digest(out))
    assert len(found) == 3


@pytest.mark.parametrize("preset", ["q4_k_m+", "iq4+"])
def test_presets(qwenctl: Qwenctl, source: Path, tmp_path: Path, preset: str) -> None:
    out = tmp_path / "m.gguf"
    assert qwenctl("convert", source, out, "--type", preset.upper()).code == 0
    found = types(out)
    assert found["blk.0.ffn_up_exps.weight"] == "IQ4_XS"
    assert found["blk.0.attn_v.weight"] in {"Q6_K", "Q8_0"}


def test_post_hoc_mxfp4_is_warned_of(qwenctl: Qwenctl, source: Path) -> None:
    ran = qwenctl("convert", source, "x", "--type", "mxfp4_moe", "--dry-run")
    assert "not trained for it" in ran.stderr
    assert "blk.0.ffn_gate_exps.weight" in ran.stderr
    assert "not trained" not in qwenctl("convert", source, "x", "--type", "iq4_xs", "--dry-run").stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--budget", "9zB"), 2, "'9zB' is not a budget"),
        (("--budget", "1bpw"), 2, "not between 2 and 16 bits"),
        (("--budget", "4bpw", "--type", "q8_0"), 2, "--type cannot be combined"),
        (("--exact", "--quality", "best"), 2, "--exact contradicts --quality best"),
        (("--budget", "60kB"), 1, "the smallest types take"),
        (("--recipe", "missing.json"), 1, "missing.json: No such file"),
        (("--imatrix", "missing.gguf"), 1, "missing.gguf"),
        (("--budget", "5bpw", "--recipe", "no/such/folder/r.json"), 2, "cannot be written: No such file"),
    ],
)
def test_what_cannot_be(
    qwenctl: Qwenctl, source: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    ran = qwenctl("convert", source, tmp_path / "m.gguf", *options)
    assert ran.code == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_another_model(qwenctl: Qwenctl, imatrix: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", TinyModel(n_layers=1, n_experts=4, hidden=512))
    ran = qwenctl("convert", other, tmp_path / "m.gguf", "--imatrix", imatrix)
    assert ran.code == 1
    assert "imatrix of another model: blk.0." in ran.stderr
    assert not (tmp_path / "m.gguf").exists()
