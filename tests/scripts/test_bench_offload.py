"""The parts of the offload benchmark that decide and count: rows, table, placements, limits, prompts, model files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quant.gguf_read import read_gguf
from scripts.offload_bench import memory_limit, placements, rows
from scripts.offload_bench.placements import ModelSizes, stock_settings
from scripts.offload_bench.prompts import Prompts
from scripts.offload_bench.routing_facts import lru_hits
from scripts.offload_bench.rows import OURS, Measurements, run_facts, table
from scripts.offload_bench.stock_settings import StockSettings
from scripts.offload_bench.task import Report, Result, Run, Task, report_from_lines, task_from_json

GIB = 1 << 30
SIZES = ModelSizes(n_layers=12, n_experts_used=8, dense_bytes=GIB // 2, expert_bytes=4 * GIB)
ASKED = {
    "shape", "memory_fraction", "phase", "stock_tokens_per_s", "qwenctl_tokens_per_s", "ratio", "hit_rate",
    "overhead_us_per_layer",
}  # fmt: skip


def decoded(rate: float, state: str = "warm", read_bytes: int = 0, stats: dict | None = None) -> Report:
    """Return the report of a child that decoded for ten seconds."""
    return Report(1.0, (Result("decode", state, int(10 * rate), 10.0, read_bytes, stats=stats),))


def test_a_row_holds_stocks_best_setting_against_ours():
    measured = Measurements(disk_bytes_per_s=1e9)
    for rate in (10, 30, 20):
        measured.add("30b", 0.5, "plain", decoded(rate))
        measured.add("30b", 0.5, "repacked", decoded(rate / 2))
        stats = {"hit_rate": 0.9, "overhead_us_per_layer": rate, "waited_s": {"decode": 1.5}}
        measured.add("30b", 0.5, OURS, decoded(2 * rate, read_bytes=5 * 10**9, stats=stats))
    (row,) = measured.rows()
    assert set(row) >= ASKED
    assert (row["stock_setting"], row["stock_tokens_per_s"]) == ("plain", 20)
    assert (row["qwenctl_tokens_per_s"], row["ratio"], row["n_rounds"]) == (40, 2, 3)
    assert (row["hit_rate"], row["overhead_us_per_layer"], row["waited_s"]) == (0.9, 20, {"decode": 1.5})
    assert row["bytes_read"] == 5 * 10**9
    assert row["disk_bound_tokens_per_s"] == 80  # 400 tokens in the 5 s that the bytes take
    assert row["ratio_to_bound"] == 0.5
    assert row["stock_all_tokens_per_s"] == {"plain": 20, "repacked": 10}
    assert json.loads(json.dumps([row])) == [row]


def test_the_first_token_of_a_process_is_held_against_the_disk():
    measured = Measurements(disk_bytes_per_s=1e9)
    first = Result("decode", "cold", 63, 6.0, 0, first_token_s=2.0, first_token_read_bytes=3 * 10**9)
    second = Result("decode", "warm", 63, 6.0, 0, first_token_s=0.5, first_token_read_bytes=9 * 10**9)
    measured.add("30b", 0.5, OURS, Report(1.5, (first, second)))
    measured.add("30b", 0.5, "plain", Report(4.0, (first,)))
    warm, cold = measured.rows()
    assert (cold["first_token_s"], cold["first_token_disk_s"], cold["stock_first_token_s"]) == (3.5, 3.0, 6.0)
    assert (warm["first_token_s"], warm["first_token_disk_s"]) == (None, None)


def test_what_was_not_measured_is_null():
    measured = Measurements()
    measured.add("30b", 1.0, "plain", decoded(5))
    measured.add("30b", 0.25, OURS, decoded(5))
    measured.add("30b", 0.25, "plain", Report(None, (), "killed"))
    first, second = measured.rows()
    assert (first["qwenctl_tokens_per_s"], first["ratio"], first["hit_rate"]) == (None, None, None)
    assert (second["stock_tokens_per_s"], second["ratio"], second["stock_setting"]) == (None, None, None)
    assert measured.errors == ["30b, 25%, plain: killed"]
    text = table([first, second]).splitlines()
    assert len(text) == 3
    assert text[1].split()[:5] == ["30b", "100%", "decode", "warm", "5.00"]


def test_an_engine_that_made_nothing_has_no_ratio():
    measured = Measurements()
    measured.add("30b", 0.25, "plain", Report(1.0, (Result("decode", "warm", 0, 20.0, 0),)))
    measured.add("30b", 0.25, OURS, decoded(5))
    (row,) = measured.rows()
    assert (row["stock_tokens_per_s"], row["ratio"]) == (0, None)


def test_warm_rows_come_first():
    measured = Measurements()
    for state in ("cold", "warm"):
        measured.add("30b", 1.0, OURS, decoded(5, state))
    assert [row["state"] for row in measured.rows()] == ["warm", "cold"]


def test_statistics_run_on_and_are_told_for_each_run():
    before = {"token_steps": 100, "token_misses": 400, "waited_s": {"decode": 2.0}}
    after = {"token_steps": 200, "token_misses": 480, "waited_s": {"decode": 2.25, "prefill": 1.0}, "hit_rate": 0.45}
    facts = run_facts(Result("decode", "warm", 64, 5.0, 0, stats=after), before, 8)
    assert facts["hit_rate"] == pytest.approx(1 - 80 / 800)
    assert facts["waited_s"] == {"decode": 0.25, "prefill": 1.0}
    prefill = run_facts(
        Result("prefill_512", "cold", 512, 5.0, 0, stats={"batch_hit_rate": 0.3, "hit_rate": 0.9}), {}, 8
    )
    assert prefill == {"hit_rate": 0.3}
    assert run_facts(Result("decode", "warm", 64, 5.0, 0), {}, 8)["hit_rate"] is None


def test_a_task_goes_through_a_pipe_unchanged():
    task = Task("stock", "model.gguf", (Run("decode", "cold", (1, 2, 3), 64, 5.0),), 2, {"repack": False})
    assert task_from_json(task.as_json()) == task


def test_a_killed_child_has_told_of_its_first_runs():
    run = {"kind": "run", "phase": "decode", "state": "cold", "n_tokens": 9, "seconds": 3.0, "read_bytes": 7}
    lines = ["ggml says something", json.dumps({"kind": "opened", "load_s": 1.5}), json.dumps(run)]
    report = report_from_lines(lines, "killed")
    assert (report.load_s, report.error) == (1.5, "killed")
    assert report.results == (Result("decode", "cold", 9, 3.0, 7),)
    assert report.results[0].tokens_per_s == 3.0


def test_the_limit_is_what_is_needed_and_a_part_of_the_experts():
    assert SIZES.limit_bytes(0.5) == GIB // 2 + int(0.35 * GIB) + 2 * GIB
    assert SIZES.limit_bytes(1.0) == GIB // 2 + int(1.5 * GIB) + 4 * GIB  # everything fits
    assert "0.35 GiB" in placements.LIMIT_FORMULA


def test_stock_is_tried_repacked_only_where_the_copy_fits():
    plain, repacked = StockSettings(repack=False), StockSettings()
    assert stock_settings(SIZES, 0.5, "decode") == (plain,)
    assert stock_settings(SIZES, 1.0, "decode") == (plain, repacked)
    large = {settings.n_ubatch for settings in stock_settings(SIZES, 0.5, "prefill_2048")}
    assert large == {512, 2048}


def test_a_gpu_adds_the_placements_that_users_would_choose():
    def on_gpu(*free_bytes: int) -> list[tuple[int, int]]:
        tried = stock_settings(SIZES, 0.5, "decode", free_bytes)
        return [(one.n_gpu_layers, one.n_cpu_moe) for one in tried if one.n_gpu_layers]

    # 3.5 GiB of 4: 1 is reserved, 0.5 is dense, 2 GiB hold 6 layers' experts; 2.5 GiB hold 6 whole layers of 0.375
    assert on_gpu(int(3.5 * GIB)) == [(-1, 12), (-1, 6), (6, 0)]
    assert on_gpu(2 * GIB, int(1.5 * GIB)) == on_gpu(int(3.5 * GIB))  # two small ones together
    assert on_gpu(80 * GIB) == [(-1, 12), (-1, 0), (12, 0)]
    assert on_gpu(GIB) == [(-1, 12)]
    assert on_gpu() == []
    assert "experts on the CPU: 6" in StockSettings(False, 512, -1, 6).name


def test_prompts_are_other_parts_of_the_text_each_time():
    prompts = Prompts(tuple(range(10)))
    assert [prompts.take(4), prompts.take(4), prompts.take(4)] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 0, 1)]
    assert len(prompts.take(25)) == 25


def test_an_lru_smaller_than_a_cycle_hits_nothing():
    cycle = [(number % 6,) for number in range(60)]
    assert lru_hits(cycle, 5) == 0
    assert lru_hits(cycle, 6) == 1
    assert lru_hits([(0, 1)] * 10, 2) == 1
    assert lru_hits([], 2) == 0


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_is_set_and_taken_away(tmp_path, version):
    if version == 1:
        (tmp_path / "memory").mkdir()
    parent = tmp_path / "memory" if version == 1 else tmp_path
    with memory_limit.memory_limit(12345, tmp_path) as members:
        files = {path.name: path.read_text() for path in members.parent.iterdir()}
        assert members.parent.parent == parent
        assert files == (
            {"memory.limit_in_bytes": "12345"} if version == 1 else {"memory.max": "12345", "memory.swap.max": "0"}
        )
        for path in members.parent.iterdir():  # a real group's files go with it
            path.unlink()
    assert not members.parent.exists()


def test_no_control_groups_end_the_benchmark(tmp_path):
    with pytest.raises(SystemExit, match="takes root"), memory_limit.memory_limit(1, tmp_path / "missing"):
        pass


def test_dropped_pages_are_counted(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file:
        assert memory_limit._cached_bytes(file.fileno(), 1 << 20) == 1 << 20  # written a moment ago


def test_a_synthetic_file_is_as_planned(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(rows.__file__).parents[1]))
    from scripts.offload_bench import synthetic_model

    monkeypatch.setitem(synthetic_model.SHAPES, "tiny", _tiny_shape(synthetic_model))
    model = synthetic_model.SyntheticModel("tiny", n_layers=2, alignment=4096, n_experts=8, n_vocab=4096)
    path = synthetic_model.ensure_model(model, tmp_path)
    gguf = read_gguf(path)
    assert gguf.alignment == 4096
    assert all(tensor.offset_bytes % 4096 == 0 for tensor in gguf.tensors.values())
    assert gguf.tensors["blk.0.ffn_gate_exps.weight"].shape == (8, 256, 512)
    assert gguf.tensors["blk.0.ffn_gate_exps.weight"].dtype == "Q4_K"
    assert gguf.tensors["output.weight"].dtype == "Q6_K"
    router = gguf.tensors["blk.1.ffn_gate_inp.weight"]
    weights = np.fromfile(path, "<f4", router.n_weights, offset=router.offset_bytes).reshape(router.shape)
    norms = np.linalg.norm(weights, axis=1)
    assert norms.max() > 1.3 * norms.min()
    before = path.stat().st_mtime_ns
    assert synthetic_model.ensure_model(model, tmp_path) == path
    assert path.stat().st_mtime_ns == before
    again = synthetic_model.ensure_model(model, tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()


def _tiny_shape(synthetic_model):
    shape = type(synthetic_model.SHAPES["30b"])
    return shape(hidden=512, expert_width=256, n_heads=4, n_kv_heads=2, n_layers=2, n_experts_used=2)
