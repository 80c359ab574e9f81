"""Folders of safetensors: what is complete is opened, what is not is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quant.checkpoint import INDEX_FILE, open_checkpoint
from quant.errors import CheckpointError, SafetensorsError
from tests.attacks.malformed_safetensors import entry, file_bytes

_A, _B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _shard(folder: Path, name: str, *tensors: str) -> None:
    header = {tensor: entry("F32", [1], [4 * n, 4 * n + 4]) for n, tensor in enumerate(tensors)}
    (folder / name).write_bytes(file_bytes(json.dumps(header).encode(), bytes(4 * len(tensors))))


def _index(folder: Path, weight_map: Any, total_size: Any = None) -> None:
    metadata = {} if total_size is None else {"metadata": {"total_size": total_size}}
    (folder / INDEX_FILE).write_text(json.dumps({**metadata, "weight_map": weight_map}))


def _two_shards(folder: Path) -> None:
    _shard(folder, _A, "a", "b")
    _shard(folder, _B, "c")
    _index(folder, {"a": _A, "b": _A, "c": _B}, 12)


def test_one_file(tmp_path: Path) -> None:
    _shard(tmp_path, "model.safetensors", "a", "b")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    checkpoint = open_checkpoint(tmp_path)
    assert [file.path.name for file in checkpoint.files] == ["model.safetensors"]
    assert list(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.notes == ()


def test_shards(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _shard(tmp_path, "consolidated.safetensors", "a", "b", "c")  # the same weights again, for another program
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.folder == tmp_path
    assert [file.path.name for file in checkpoint.files] == [_A, _B]
    assert {name: info.path.name for name, info in checkpoint.tensors.items()} == {"a": _A, "b": _A, "c": _B}
    assert checkpoint.notes == ()


def test_one_shard_with_an_index(tmp_path: Path) -> None:
    _shard(tmp_path, "model.safetensors", "a")
    _index(tmp_path, {"a": "model.safetensors"})
    assert list(open_checkpoint(tmp_path).tensors) == ["a"]


def test_links_of_the_hub_s_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    _two_shards(blobs)
    for number, path in enumerate(sorted(blobs.iterdir())):
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
        path.rename(blobs / str(number))
    assert list(open_checkpoint(snapshot).tensors) == ["a", "b", "c"]


def test_wrong_total_size_is_a_note(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _index(tmp_path, {"a": _A, "b": _A, "c": _B}, 16)
    assert open_checkpoint(tmp_path).notes == (f"{INDEX_FILE} says 16 bytes in all, the shards hold 12",)


def test_shard_missing(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    (tmp_path / _B).unlink()
    with pytest.raises(CheckpointError, match=f"1 of 2 shards are missing: {_B}"):
        open_checkpoint(tmp_path)


def test_many_shards_missing(tmp_path: Path) -> None:
    _index(tmp_path, {str(n): f"model-{n:05d}-of-00099.safetensors" for n in range(99)})
    with pytest.raises(CheckpointError, match=r"99 of 99 shards are missing: model-00000.* and 96 more"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model-00003-of-00003.safetensors"])
def test_shard_too_many(name: str, tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _shard(tmp_path, name, "d")
    with pytest.raises(CheckpointError, match=f"does not name {name}, so which weights are meant is unclear"):
        open_checkpoint(tmp_path)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _shard(tmp_path, _B, "c", "b")
    with pytest.raises(CheckpointError, match=f"tensor b is in {_A} and in {_B}"):
        open_checkpoint(tmp_path)


def test_tensor_in_no_shard(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _index(tmp_path, {"a": _A, "b": _A, "c": _B, "d": _B})
    with pytest.raises(CheckpointError, match="1 tensors of the index are in no shard: d"):
        open_checkpoint(tmp_path)


def test_tensor_not_in_the_index(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _index(tmp_path, {"a": _A, "c": _B})
    with pytest.raises(CheckpointError, match="1 tensors of the shards are not in the index: b"):
        open_checkpoint(tmp_path)


def test_tensor_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    _index(tmp_path, {"a": _A, "b": _B, "c": _B})
    with pytest.raises(CheckpointError, match=f"tensor b is in {_A}, the index says {_B}"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..safetensors",
        ".safetensors",
        "model.safetensors\n",
        "model\0.safetensors",
        "C:model.safetensors",
        "pytorch_model.bin",
        "",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_shard_names_never_lead_elsewhere(shard: object, tmp_path: Path) -> None:
    _shard(tmp_path, _A, "a")
    _index(tmp_path, {"a": _A, "b": shard})
    with pytest.raises(SafetensorsError, match="is not the plain name of a shard"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "weight_map must be an object"),
        ('{"weight_map":{}}', "weight_map must be an object"),
        ('{"weight_map":[]}', "weight_map must be an object"),
        ("[]", "holds a JSON array"),
        ('{"weight_map":{"a":"x","a":"y"}}', "the key 'a' appears twice"),
        ("nonsense", "not JSON"),
    ],
)
def test_index_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(SafetensorsError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.path == tmp_path / INDEX_FILE


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt", "weights.pkl"])
def test_pickles_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"its weights are pickles \\({name}\\), which can run code") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint == "download the safetensors version of this model"


def test_shards_without_their_index(tmp_path: Path) -> None:
    _shard(tmp_path, _A, "a")
    with pytest.raises(CheckpointError, match=f"found {_A}, but neither model.safetensors nor {INDEX_FILE}"):
        open_checkpoint(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_checkpoint(tmp_path / "missing")


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    _two_shards(tmp_path)
    (tmp_path / _B).write_bytes((tmp_path / _B).read_bytes()[:-1])
    with pytest.raises(SafetensorsError, match="its tensors end at byte") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.path == tmp_path / _B


def test_weights_that_are_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a link to nowhere"):
        open_checkpoint(tmp_path)
