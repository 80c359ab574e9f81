"""What is gathered while a model reads: against a computation in numpy, and offloaded against not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quant.gguf_read import read_gguf
from qwenctl.errors import GenerationFailed
from qwenctl.moe.offload_options import OffloadOptions
from tests.moe.offload_runs import merged_gguf
from tests.numpy_forward import inputs
from tests.services.imatrix_models import MODEL, Reading, random_chunks, write_model
from tests.tiny_checkpoint import TinyModel, tiny_weights

N_CHUNKS = 10
COMMON, EXPERTS = {"blk.1.ffn_gate_exps.weight": 1}, {"blk.2.ffn_gate_exps.weight": 8, "blk.0.ffn_down_exps.weight": 8}
MOMENTS = {"blk.0.attn_k.weight": 1, "blk.1.attn_output.weight": 1} | COMMON | EXPERTS


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("f32"))


@pytest.fixture(scope="module")
def stock(f32: Path) -> Reading:
    return Reading(f32, random_chunks(N_CHUNKS), n_matrices=MOMENTS)


@pytest.fixture(scope="module")
def direct() -> dict[str, list[tuple[np.ndarray, np.ndarray | None]]]:
    """By name, the rows of each chunk and their experts."""
    weights = tiny_weights(MODEL)
    found: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
    for chunk in random_chunks(N_CHUNKS):
        for name, rows, experts in inputs(MODEL, weights, chunk):
            found.setdefault(name, []).append((rows, experts))
    return found


def test_every_weight_is_measured_and_equal_inputs_are_measured_once(stock: Reading, direct: dict) -> None:
    assert stock.entries.keys() == direct.keys()
    assert stock.members["blk.0.attn_k.weight"] == tuple(f"blk.0.attn_{letter}.weight" for letter in "kqv")
    assert stock.members["blk.2.ffn_gate_exps.weight"] == ("blk.2.ffn_gate_exps.weight", "blk.2.ffn_up_exps.weight")
    assert len(stock.members) == 3 * 5 + 1
    assert len(stock.totals.sums.sums) == len(stock.members)


def test_sums_and_counts_are_those_of_a_direct_computation(stock: Reading, direct: dict) -> None:
    for name, parts in direct.items():
        rows = np.concatenate([part for part, _ in parts])
        entry = stock.entries[name]
        if parts[0][1] is None:
            assert entry.counts.tolist() == [N_CHUNKS * 64]
            np.testing.assert_allclose(entry.sums[0], (rows**2).sum(axis=0), rtol=1e-3, err_msg=name)
            continue
        experts = np.concatenate([part for _, part in parts])
        for expert in range(8):
            own = rows[experts == expert]
            assert entry.counts[expert] == len(own), (name, expert)
            np.testing.assert_allclose(entry.sums[expert], (own**2).sum(axis=0), rtol=1e-3, err_msg=name)


def test_second_moments_are_those_of_a_direct_computation(stock: Reading, direct: dict) -> None:
    moments = stock.totals.moments.entries()
    assert moments.keys() == MOMENTS.keys()
    for name, n_matrices in MOMENTS.items():
        rows, experts = (
            (np.concatenate(one) for one in zip(*direct[name], strict=True))
            if n_matrices > 1
            else (
                np.concatenate([part for part, _ in direct[name]]),
                None,
            )
        )
        if name in COMMON:
            rows = rows[:: MODEL.n_experts_used]  # each token once
        for matrix in range(n_matrices):
            own = rows if experts is None else rows[experts == matrix]
            expected = own.T @ own
            assert moments[name].counts[matrix] == len(own)
            np.testing.assert_allclose(
                moments[name].moments[matrix], expected, atol=1e-4 * max(1.0, np.abs(expected).max()), err_msg=name
            )


@pytest.mark.parametrize("operation", ["id", "expert"])
@pytest.mark.parametrize("n_slots", [2, 8])
def test_offloaded_experts_give_the_same(stock: Reading, f32: Path, operation: str, n_slots: int) -> None:
    """Two slots for eight experts: most stream through the ring, in waves."""
    offload = OffloadOptions(mode="on", n_slots=n_slots, layout="plain", operation=operation)  # type: ignore[arg-type]
    found = Reading(f32, random_chunks(N_CHUNKS), offload, MOMENTS)
    assert found.placement is not None
    assert found.members == stock.members
    for name, entry in stock.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-5, err_msg=name)
    for name, moments in stock.totals.moments.moments.items():
        scale = float(np.abs(moments).max())
        np.testing.assert_allclose(found.totals.moments.moments[name], moments, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("output_type", ["q4_k_m", "q8_0"])
def test_exact_runs_of_quantized_models_do_not_depend_on_placement(tmp_path: Path, output_type: str) -> None:
    path, chunks = write_model(tmp_path, output_type), random_chunks(6)
    stock = Reading(path, chunks, exact=True)
    found = Reading(path, chunks, OffloadOptions(mode="on", n_slots=3), exact=True)
    assert found.placement is not None
    for name, entry in stock.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-5, err_msg=name)


def test_a_chunk_alone_and_among_others_gives_the_same(stock: Reading, f32: Path) -> None:
    """Sequences of a batch must not see each other."""
    chunks = random_chunks(N_CHUNKS)
    alone = [Reading(f32, [chunk]) for chunk in chunks[:2]] + [Reading(f32, chunks[2:])]
    for name, entry in stock.entries.items():
        np.testing.assert_array_equal(sum(one.entries[name].counts for one in alone), entry.counts)
        np.testing.assert_allclose(sum(one.entries[name].sums for one in alone), entry.sums, rtol=1e-4, err_msg=name)


def test_joined_gate_and_up_and_a_shared_expert(tmp_path: Path) -> None:
    path, chunks = merged_gguf(tmp_path / "merged.gguf"), random_chunks(4)
    stock = Reading(path, chunks)
    found = Reading(path, chunks, OffloadOptions(mode="on", n_slots=2, layout="plain"))
    assert stock.entries.keys() == found.entries.keys()
    assert stock.entries["blk.1.ffn_gate_up_exps.weight"].sums.shape == (6, 64)
    assert stock.entries["blk.1.ffn_down_exps.weight"].sums.shape == (6, 32)
    assert stock.entries["blk.1.ffn_down_shexp.weight"].counts.tolist() == [4 * 64]
    for name, entry in stock.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-5, err_msg=name)


def test_dense_models_and_tied_outputs(tmp_path: Path) -> None:
    model = TinyModel("Qwen3ForCausalLM", tied=True, n_shards=1, dtype="F32", vocab_size=320, n_layers=2)
    found = Reading(write_model(tmp_path, model=model), random_chunks(2))
    assert "token_embd.weight" not in found.entries
    assert found.members["blk.1.ffn_gate.weight"] == ("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight")
    assert found.entries["blk.1.ffn_down.weight"].sums.shape == (1, 512)
    assert found.entries["blk.1.ffn_down.weight"].counts.tolist() == [128]


def test_an_overflow_is_reported_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    norm = read_gguf(path).tensors["blk.1.attn_norm.weight"]
    with path.open("r+b") as file:
        file.seek(norm.offset_bytes)
        file.write(np.full(256, 1e25, "<f4").tobytes())
    found = Reading(path, random_chunks(1))
    with pytest.raises(GenerationFailed, match=r"what blk\.1\.attn_k\.weight is multiplied with is not finite"):
        found.totals.check_finite()
