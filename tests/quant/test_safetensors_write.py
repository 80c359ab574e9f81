"""Layouts of safetensors files: our own strict reader accepts them, bundles stay together, the index names all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quant.checkpoint import open_checkpoint
from quant.safetensors_read import read_safetensors
from quant.safetensors_write import NewTensor, index_json, plan_shards

BUNDLES = [
    [NewTensor("embeddings", "BF16", (10, 4))],
    [NewTensor("a.qweight", "I32", (8, 4)), NewTensor("a.scales", "F16", (2, 4))],
    [NewTensor("b.qweight", "I32", (8, 4)), NewTensor("b.scales", "F16", (2, 4))],
    [NewTensor("norm", "BF16", (4,))],
]


@pytest.mark.parametrize(("max_bytes", "n_shards"), [(1 << 20, 1), (250, 2), (1, 4)])
def test_the_files_are_what_a_reader_expects(tmp_path: Path, max_bytes: int, n_shards: int) -> None:
    shards = plan_shards(BUNDLES, max_bytes)
    assert len(shards) == n_shards
    for shard in shards:
        path = tmp_path / shard.name
        path.write_bytes(shard.header.ljust(shard.total_bytes, b"\0"))
        read = read_safetensors(path)
        assert [(t.name, t.dtype, t.shape, t.offset_bytes, t.n_bytes) for t in read.tensors.values()] == [
            (t.name, t.dtype, t.shape, t.offset_bytes, t.n_bytes) for t in shard.tensors
        ]
        assert read.metadata == {"format": "pt"}
        assert len(shard.header) % 64 == 0
    if n_shards > 1:
        (tmp_path / "model.safetensors.index.json").write_bytes(index_json(shards))
    assert len(open_checkpoint(tmp_path).tensors) == 6
    assert open_checkpoint(tmp_path).notes == ()


def test_bundles_are_not_torn_apart() -> None:
    for shard in plan_shards(BUNDLES, 100):
        names = {tensor.name for tensor in shard.tensors}
        assert ("a.qweight" in names) == ("a.scales" in names)


def test_shards_are_named_as_transformers_names_them() -> None:
    assert [shard.name for shard in plan_shards(BUNDLES, 1)][1] == "model-00002-of-00004.safetensors"
    assert [shard.name for shard in plan_shards(BUNDLES, 1 << 20)] == ["model.safetensors"]


def test_the_index_counts_data_only() -> None:
    document = json.loads(index_json(plan_shards(BUNDLES, 1)))
    assert document["metadata"]["total_size"] == 80 + 2 * (128 + 16) + 8
    assert document["weight_map"]["b.scales"] == "model-00003-of-00004.safetensors"


def test_elements_lie_at_multiples_of_their_size() -> None:
    with pytest.raises(ValueError, match="second would begin at byte 6"):
        plan_shards([[NewTensor("first", "BF16", (3,)), NewTensor("second", "I32", (1,))]], 1 << 20)
