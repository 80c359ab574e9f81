"""Where experts lie: held against the bytes of tiny GGUF files, whole and split; and files that have no map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quant.gguf_read import GgufFile, read_gguf
from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.expert_map import ExpertMap, read_expert_map, why_not
from tests.tiny_gguf import ARRAY, I32, U16, U32, TinyGguf, TinyTensor

_Q4_K, _Q8_0 = 12, 8


def _experts(*kinds: str, n_experts: int = 4, n_ff: int = 32, n_embd: int = 64) -> dict[str, TinyTensor]:
    shapes = {"gate": (n_ff, n_embd), "up": (n_ff, n_embd), "gate_up": (2 * n_ff, n_embd), "down": (n_embd, n_ff)}
    return {f"ffn_{kind}_exps.weight": TinyTensor((n_experts, *shapes[kind])) for kind in kinds}


def _without_experts(model: TinyGguf, layer: int) -> None:
    for name in [name for name in model.tensors if name.startswith(f"blk.{layer}.") and "_exps" in name]:
        del model.tensors[name]


def _mapped(gguf: GgufFile) -> ExpertMap:
    experts = read_expert_map(gguf)
    assert experts is not None, why_not(gguf)
    assert why_not(gguf) is None
    return experts


def _obstacle(model: TinyGguf, path: Path) -> str:
    gguf = read_gguf(model.write(path))
    assert read_expert_map(gguf) is None
    reason = why_not(gguf)
    assert reason is not None
    assert "\n" not in reason
    return reason


def _check_bytes(experts: ExpertMap, model: TinyGguf) -> int:
    """Hold every slice against the weights that the file was written from; return how many there were."""
    generator = np.random.default_rng(0)
    data = {name: tensor.to_bytes(generator) for name, tensor in model.tensors.items()}
    n_slices = 0
    for position, layer in enumerate(experts.layers):
        for expert in range(layer.n_experts):
            for tensor, piece in zip(layer.tensors, experts.slices(position, expert), strict=True):
                with experts.paths[piece.file].open("rb") as file:
                    file.seek(piece.offset_bytes)
                    found = file.read(piece.n_bytes)
                start = expert * tensor.expert_bytes
                assert found == data[tensor.name][start : start + tensor.expert_bytes]
                n_slices += 1
    return n_slices


def test_slices_are_the_experts_bytes(tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    gguf = read_gguf(model.write(tmp_path / "a.gguf"))
    experts = _mapped(gguf)
    assert (experts.architecture, experts.n_experts, experts.n_experts_used, experts.n_embd) == ("qwen3moe", 4, 2, 64)
    assert experts.paths == gguf.paths
    assert experts.file_bytes == (gguf.size_bytes,)
    assert [layer.index for layer in experts.layers] == [0, 1]
    assert [(t.kind, t.n_in, t.n_out, t.type.name) for t in experts.layers[1].tensors] == [
        ("gate", 64, 32, "F32"),
        ("up", 64, 32, "F32"),
        ("down", 32, 64, "F32"),
    ]
    assert _check_bytes(experts, model) == 2 * 4 * 3
    one = 32 * 64 * 4
    assert experts.layers[0].expert_bytes == 3 * one
    assert experts.expert_bytes == 2 * 4 * 3 * one
    assert experts.cycle_bytes == 2 * 2 * 3 * one
    assert experts.dense_bytes == sum(info.n_bytes for info in gguf.tensors.values()) - experts.expert_bytes


def test_merged_gate_and_up_quantized_and_a_leading_dense_layer(tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    _without_experts(model, 0)
    _without_experts(model, 1)
    generator = np.random.default_rng(1)
    for name, (shape, type_id, n_bytes) in {
        "blk.1.ffn_down_exps.weight": ((3, 64, 256), _Q4_K, 3 * 64 * 144),
        "blk.1.ffn_down_exps.bias": ((3, 64), 0, 3 * 64 * 4),
        "blk.1.ffn_gate_up_exps.weight": ((3, 512, 64), _Q8_0, 3 * 512 * 68),
    }.items():
        model.tensors[name] = TinyTensor(shape, type_id, generator.bytes(n_bytes))
    model.pairs["qwen3moe.expert_count"] = (U32, 3)
    experts = _mapped(read_gguf(model.write(tmp_path / "a.gguf")))
    (layer,) = experts.layers
    assert layer.index == 1
    assert [(tensor.kind, tensor.expert_bytes) for tensor in layer.tensors] == [
        ("gate_up", 512 * 68),
        ("down", 64 * 144),
    ]
    assert _check_bytes(experts, model) == 3 * 2
    with pytest.raises(IndexError, match="expert 3 of 3"):
        experts.slices(0, 3)
    with pytest.raises(IndexError, match="expert -1"):
        experts.slices(0, -1)


def test_a_split_set(tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    names = list(model.tensors)
    cut = names.index("blk.1.ffn_up_exps.weight")  # a layer's matrices in two files
    for number, part in enumerate((names[:cut], names[cut:])):
        pairs = model.pairs if number == 0 else {}
        split = {"split.no": (U16, number), "split.count": (U16, 2), "split.tensors.count": (I32, len(names))}
        tensors = {name: TinyTensor(model.tensors[name].shape, 0, b"") for name in part}
        generator = np.random.default_rng(0)
        data = {name: model.tensors[name].to_bytes(generator) for name in names}
        for name, tensor in tensors.items():
            tensor.data = data[name]
        TinyGguf({**pairs, **split}, tensors).write(tmp_path / f"a-{number + 1:05d}-of-00002.gguf")
    experts = _mapped(read_gguf(tmp_path / "a-00001-of-00002.gguf"))
    assert [piece.file for piece in experts.slices(0, 0)] == [0, 0, 0]
    assert [piece.file for piece in experts.slices(1, 0)] == [0, 1, 1]
    assert experts.file_bytes == tuple(path.stat().st_size for path in experts.paths)
    assert _check_bytes(experts, model) == 2 * 4 * 3


def test_layers_for_multi_token_prediction_are_left_out(tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    whole = _mapped(read_gguf(model.write(tmp_path / "a.gguf")))
    model.pairs["qwen3moe.nextn_predict_layers"] = (U32, 1)
    experts = _mapped(read_gguf(model.write(tmp_path / "b.gguf")))
    assert [layer.index for layer in experts.layers] == [0]
    ahead = sum(
        4 * np.prod(t.shape) for name, t in model.tensors.items() if name.startswith("blk.1.") and "_exps" not in name
    )
    assert experts.dense_bytes == whole.dense_bytes - ahead


def test_used_counts_by_layer(tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    model.pairs["qwen3moe.expert_used_count"] = (ARRAY, (I32, [1, 3]))
    assert _mapped(read_gguf(model.write(tmp_path / "a.gguf"))).n_experts_used == 3


def test_a_dense_model_has_no_map(tmp_path: Path) -> None:
    assert "no tensors of experts" in _obstacle(TinyGguf.of("qwen3"), tmp_path / "a.gguf")


@pytest.mark.parametrize("kinds", [("up", "down"), ("gate", "up"), ("gate", "gate_up", "up", "down"), ("gate_up",)])
def test_an_incomplete_or_double_set_of_matrices(kinds: tuple[str, ...], tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    _without_experts(model, 1)
    model.tensors |= {f"blk.1.{name}": tensor for name, tensor in _experts(*kinds).items()}
    assert "layer 1 has experts of" in _obstacle(model, tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blk.0.ffn_up_exps.weight", (3, 32, 64), "instead of (4, rows, columns)"),
        ("blk.0.ffn_up_exps.weight", (128, 64), "instead of (4, rows, columns)"),
        ("blk.0.ffn_up_exps.weight", (4, 16, 64), "do not fit together: gate 64×32, up 64×16, down 32×64"),
        ("blk.0.ffn_down_exps.weight", (4, 64, 16), "do not fit together"),
        ("blk.0.ffn_down_exps.weight", (4, 32, 32), "do not fit together"),
    ],
)
def test_shapes_that_contradict_each_other(name: str, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    model.tensors[name] = TinyTensor(shape)
    assert message in _obstacle(model, tmp_path / "a.gguf")


@pytest.mark.parametrize("rows", [63, 66])
def test_merged_matrices_of_another_height(rows: int, tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    _without_experts(model, 1)
    model.tensors |= {f"blk.1.{name}": tensor for name, tensor in _experts("gate_up", "down").items()}
    model.tensors["blk.1.ffn_gate_up_exps.weight"] = TinyTensor((4, rows, 64))
    assert "do not fit together" in _obstacle(model, tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("expert_count", None, "expert_count is not a number"),
        ("expert_count", 0, "expert_count is not a number"),
        ("expert_used_count", None, "expert_used_count is not a number"),
        ("expert_used_count", 5, "5 experts of 4 are used"),
        ("embedding_length", None, "embedding_length is not a number"),
    ],
)
def test_metadata_that_says_too_little(key: str, value: int | None, message: str, tmp_path: Path) -> None:
    model = TinyGguf.of("qwen3moe")
    del model.pairs[f"qwen3moe.{key}"]
    if value is not None:
        model.pairs[f"qwen3moe.{key}"] = (U32, value)
    assert message in _obstacle(model, tmp_path / "a.gguf")


def test_a_tensor_that_is_not_a_whole_number_of_experts(tmp_path: Path) -> None:
    gguf = read_gguf(TinyGguf.of("qwen3moe").write(tmp_path / "a.gguf"))
    name = "blk.0.ffn_up_exps.weight"
    for changes, message in (
        ({"n_bytes": 4 * 32 * 64 * 4 + 4}, "not 4 experts of 8,192"),
        ({"dtype": "Q4_K"}, "blocks"),
    ):
        broken = replace(gguf, tensors={**gguf.tensors, name: replace(gguf.tensors[name], **changes)})
        assert message in str(why_not(broken))
        assert read_expert_map(broken) is None


def test_a_file_that_changed_since_its_header_was_read(tmp_path: Path) -> None:
    path = TinyGguf.of("qwen3moe").write(tmp_path / "a.gguf")
    gguf = read_gguf(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExpertReadFailed, match=r"a\.gguf: .* bytes now"):
        read_expert_map(gguf)
    path.unlink()
    with pytest.raises(ExpertReadFailed, match=r"a\.gguf: No such file"):
        read_expert_map(gguf)
