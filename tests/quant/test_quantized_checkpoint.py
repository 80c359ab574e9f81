"""AWQ and GPTQ checkpoints as sources: every weight to the bit, in any rows, and each malformed part by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quant import quantized_checkpoint
from quant.checkpoint import open_checkpoint
from quant.conversion_plan import ConversionPlan, plan_conversion
from quant.errors import BadWeights, CheckpointError, FileFormatError
from quant.gguf_read import read_gguf
from quant.hf_config import read_config
from quant.quantized_checkpoint import PackedWeight
from quant.recipe import OUTPUT_TYPES
from quant.source_tensor import SourceTensor
from quant.tensor_read import TensorReader, read_rows_f32
from tests.packed_checkpoint import Packing, StoredTensor, pack_checkpoint, pack_weight, write_shards
from tests.quant.conversion_runs import SMALLEST, digest, run
from tests.tiny_checkpoint import TinyModel, tiny_weights, write_checkpoint, write_stored

AWQ = Packing("awq", group_size=64)
GPTQ = Packing("gptq", group_size=64)
PACKINGS = {
    "awq": AWQ,
    "awq, one group a row": replace(AWQ, group_size=-1),
    "gptq": GPTQ,
    "gptq_v2": replace(GPTQ, checkpoint_format="gptq_v2"),
    "gptq, groups in mixed order": replace(GPTQ, desc_act=True),
    "gptq, one group a row": replace(GPTQ, group_size=-1),
    "gptq, symmetric": replace(GPTQ, symmetric=True),
    "gptq, 8 bits": replace(GPTQ, bits=8, group_size=32),
    "gptq, 2 bits": replace(GPTQ, bits=2, group_size=32),
}
NAME = "model.layers.0.self_attn.q_proj"
DENSE = TinyModel(architecture="Qwen3ForCausalLM", n_layers=1, vocab_size=320)


def packed(folder: Path, packing: Packing, model: TinyModel = SMALLEST) -> dict[str, np.ndarray]:
    """Write `model` packed into `folder`; return what its weights are worth."""
    return pack_checkpoint(write_checkpoint(folder / "whole", model), folder, tiny_weights(model), packing)


def tensors_of(folder: Path) -> dict[str, SourceTensor]:
    return dict(open_checkpoint(folder, read_config(folder).packed).tensors)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
def test_every_weight_is_read_to_the_bit(tmp_path: Path, packing: Packing) -> None:
    values = packed(tmp_path, packing)
    tensors = tensors_of(tmp_path)
    assert tensors.keys() == values.keys()
    assert sum(isinstance(info, PackedWeight) for info in tensors.values()) == 4 + 3 * SMALLEST.n_experts
    for name, info in tensors.items():
        np.testing.assert_array_equal(read_rows_f32(info).reshape(info.shape), values[name], err_msg=name)


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "Qwen3ForCausalLM", "Qwen2ForCausalLM"])
@pytest.mark.parametrize("packing", [AWQ, replace(GPTQ, desc_act=True)], ids=["awq", "gptq"])
def test_the_converted_file_holds_the_same_weights(tmp_path: Path, packing: Packing, architecture: str) -> None:
    head_dim = 32 if architecture == "Qwen2ForCausalLM" else 64
    values = packed(tmp_path, packing, TinyModel(architecture, n_layers=2, vocab_size=320, head_dim=head_dim))
    plan = plan_conversion(tmp_path, OUTPUT_TYPES["f32"])
    run(plan, tmp_path / "m.gguf", n_threads=2)
    written = read_gguf(tmp_path / "m.gguf").tensors
    for name, info in written.items():
        sources = sorted({work.source.info.name for work in plan.slices if placed_name(plan, work.tensor) == name})
        sources.sort(key=lambda source: [int(part) for part in source.split(".") if part.isdigit()])
        expected = np.concatenate([values[source].reshape(-1) for source in sources])
        np.testing.assert_array_equal(read_rows_f32(info).reshape(-1), expected, err_msg=name)
    assert len(written) == len(plan.layout.placed)


def placed_name(plan: ConversionPlan, number: int) -> str:
    return plan.layout.placed[number].name


def test_the_file_is_that_of_the_rounded_weights_stored_whole(tmp_path: Path) -> None:
    """Apart from the metadata: what was packed and what was not become the same tensors, of a quantized type too."""
    values = packed(tmp_path / "packed", AWQ)
    whole = write_checkpoint(tmp_path / "whole", replace(SMALLEST, dtype="F32"))
    stored = {name: StoredTensor("F32", value.shape, value.tobytes()) for name, value in values.items()}
    for old in whole.glob("*.safetensors"):
        old.unlink()
    write_shards(whole, stored, 2)
    files = []
    for folder in (tmp_path / "packed", whole):
        run(plan_conversion(folder, OUTPUT_TYPES["q4_k_m"]), folder / "m.gguf")
        info = read_gguf(folder / "m.gguf").tensors
        data = (folder / "m.gguf").read_bytes()
        files.append({name: data[one.offset_bytes : one.offset_bytes + one.n_bytes] for name, one in info.items()})
    assert files[0] == files[1]


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("n_decoded", [1, 1024])
def test_any_rows(tmp_path: Path, packing: Packing, n_decoded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_checkpoint, "_DECODED_WEIGHTS", n_decoded)
    values = packed(tmp_path, packing)[f"{NAME}.weight"]
    info = tensors_of(tmp_path)[f"{NAME}.weight"]
    with TensorReader() as reader:
        for first in range(0, len(values), 5):
            for n_rows in (0, 1, 3, 8, 17, len(values)):
                n_there = min(n_rows, len(values) - first)
                found = reader.read_rows_f32(info, first, n_there)
                np.testing.assert_array_equal(found, values[first : first + n_there])


def test_many_threads(tmp_path: Path) -> None:
    values = packed(tmp_path, AWQ)
    tensors = [info for info in tensors_of(tmp_path).values() if isinstance(info, PackedWeight)]
    work = [(info, first) for info in tensors for first in range(0, info.n_rows - 16, 16)] * 2
    with TensorReader() as reader, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: reader.read_rows_f32(one[0], one[1], 16), work))
    for (info, first), rows in zip(work, found, strict=True):
        np.testing.assert_array_equal(rows, values[info.name][first : first + 16])


def test_scales_of_other_types(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    parts, _ = pack_weight(weight, AWQ)
    coarse = np.frombuffer(parts["scales"].data, np.float16).astype(np.float32).view(np.uint32) >> 16
    as_f32 = (coarse << 16).view(np.float32)
    found = []
    for dtype, data in (("BF16", coarse.astype("<u2").tobytes()), ("F32", as_f32.tobytes())):
        stored = {f"m.{part}": tensor for part, tensor in parts.items()}
        stored["m.scales"] = StoredTensor(dtype, parts["scales"].shape, data)
        write_stored(tmp_path / "model.safetensors", stored)
        weights = open_checkpoint(tmp_path, quantized_format(AWQ, tmp_path)).tensors
        found.append(read_rows_f32(weights["m.weight"]))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - weight).max() < 0.3


def quantized_format(packing: Packing, folder: Path) -> quantized_checkpoint.PackedFormat:
    values = json.loads((write_checkpoint(folder / "c", SMALLEST) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": packing.quantization_config}))
    found = read_config(folder).packed
    assert found is not None
    return found


def test_gptq_with_a_short_last_group(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 80)).astype(np.float32)
    parts, value = pack_weight(weight, GPTQ)
    assert parts["scales"].shape == (2, 8)
    write_stored(tmp_path / "model.safetensors", {f"m.{part}": tensor for part, tensor in parts.items()})
    weights = open_checkpoint(tmp_path, quantized_format(GPTQ, tmp_path)).tensors
    np.testing.assert_array_equal(read_rows_f32(weights["m.weight"]), value)


def test_gptq_without_g_idx(tmp_path: Path) -> None:
    values = packed(tmp_path, GPTQ)
    rewrite(tmp_path, lambda stored: [stored.pop(name) for name in list(stored) if name.endswith(".g_idx")])
    for name, info in tensors_of(tmp_path).items():
        np.testing.assert_array_equal(read_rows_f32(info).reshape(info.shape), values[name])


def test_biases_of_zeros_that_quantizers_add_are_left_out(tmp_path: Path) -> None:
    packed(tmp_path, GPTQ, DENSE)
    bias = f"{NAME}.bias"
    n_out = DENSE.n_heads * DENSE.head_dim
    rewrite(tmp_path, lambda stored: stored.update({bias: StoredTensor("F16", (n_out,), bytes(2 * n_out))}))
    plan = plan_conversion(tmp_path, OUTPUT_TYPES["f32"])
    assert not [tensor.name for tensor in plan.layout.placed if tensor.name.endswith("bias")]
    rewrite(tmp_path, lambda stored: stored.update({bias: StoredTensor("F16", (n_out,), b"\1" + bytes(2 * n_out - 1))}))
    with pytest.raises(CheckpointError, match=rf"1 not known: {bias}"):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_a_killed_conversion_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path, AWQ)
    run(plan_conversion(tmp_path, OUTPUT_TYPES["q8_0"]), tmp_path / "whole.gguf")
    decode, calls = PackedWeight.fill_rows, []

    def fails_at_the_fifth(self: PackedWeight, *arguments: object) -> None:
        calls.append(self.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        decode(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(PackedWeight, "fill_rows", fails_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            run(plan_conversion(tmp_path, OUTPUT_TYPES["q8_0"]), tmp_path / "m.gguf")
    outcome = run(plan_conversion(tmp_path, OUTPUT_TYPES["q8_0"]), tmp_path / "m.gguf")
    assert outcome.n_weights_resumed > 0
    assert digest(tmp_path / "m.gguf") == digest(tmp_path / "whole.gguf")


def test_the_source_is_said_to_be_quantized(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    (note,) = plan_conversion(tmp_path, OUTPUT_TYPES["f32"]).notes
    assert note.startswith("the source is quantized already (AWQ, 4 bits, groups of 64)")


# --- what is refused ----------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, StoredTensor]], object]) -> None:
    """Change the stored tensors of a checkpoint."""
    stored = {}
    for file in open_checkpoint(folder).files:
        data = file.path.read_bytes()
        for name, info in file.tensors.items():
            stored[name] = StoredTensor(
                info.dtype, info.shape, data[info.offset_bytes : info.offset_bytes + info.n_bytes]
            )
    change(stored)
    write_shards(folder, stored, 2)


def reshaped(stored: dict[str, StoredTensor], part: str, dtype: str, shape: tuple[int, ...]) -> None:
    width = {"I32": 4, "F16": 2, "F32": 4, "I64": 8}[dtype]
    stored[f"{NAME}.{part}"] = StoredTensor(dtype, shape, bytes(width * int(np.prod(shape))))


@pytest.mark.parametrize(
    ("packing", "part", "dtype", "shape", "said"),
    [
        (AWQ, "qweight", "I32", (256,), r"q_proj.qweight is I32 256 instead of I32 n x n"),
        (AWQ, "qweight", "F16", (256, 16), r"q_proj.qweight is F16 256 x 16 instead of I32 256 x 16"),
        (AWQ, "qweight", "I32", (255, 16), r"q_proj.weight of 128 x 255 cannot be AWQ, 4 bits, groups of 64"),
        (AWQ, "qweight", "I32", (256, 17), r"q_proj.qzeros is I32 4 x 16 instead of I32 4 x 17"),
        (AWQ, "qweight", "I32", (256, 0), r"q_proj.qweight is I32 256 x 0"),
        (AWQ, "qzeros", "I32", (8, 16), r"q_proj.qzeros is I32 8 x 16 instead of I32 4 x 16"),
        (AWQ, "scales", "F16", (4, 127), r"q_proj.scales is F16 4 x 127 instead of F16 or BF16 or F32 4 x 128"),
        (AWQ, "scales", "I32", (4, 128), r"q_proj.scales is I32"),
        (GPTQ, "qweight", "I32", (32, 130), r"q_proj.weight of 130 x 256 cannot be GPTQ"),
        (GPTQ, "qweight", "I32", (40, 128), r"q_proj.qzeros is I32 4 x 16 instead of I32 5 x 16"),
        (GPTQ, "g_idx", "I32", (255,), r"q_proj.g_idx is I32 255 instead of I32 256"),
        (GPTQ, "g_idx", "I64", (256,), r"q_proj.g_idx is I64 256 instead of I32 256"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, packing: Packing, part: str, dtype: str, shape: tuple[int, ...], said: str
) -> None:
    packed(tmp_path, packing)
    rewrite(tmp_path, lambda stored: reshaped(stored, part, dtype, shape))
    with pytest.raises(CheckpointError, match=said) as caught:
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("packing", "gone", "said"),
    [
        (AWQ, ["scales"], "q_proj is packed, but its scales is missing"),
        (AWQ, ["qweight", "qzeros"], "q_proj is packed, but its qweight, qzeros is missing"),
        (replace(GPTQ, desc_act=True), ["g_idx"], "q_proj is packed, but its g_idx is missing"),
    ],
)
def test_missing_parts_are_named(tmp_path: Path, packing: Packing, gone: list[str], said: str) -> None:
    packed(tmp_path, packing)
    rewrite(tmp_path, lambda stored: [stored.pop(f"{NAME}.{part}") for part in gone])
    with pytest.raises(CheckpointError, match=said):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_a_missing_weight_is_missed_by_its_name(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    rewrite(tmp_path, lambda stored: [stored.pop(f"{NAME}.{part}") for part in ("qweight", "qzeros", "scales")])
    with pytest.raises(CheckpointError, match=rf"1 missing: {NAME}\.weight"):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_a_packed_weight_of_another_shape_than_config_json_says(tmp_path: Path) -> None:
    packed(tmp_path, AWQ, replace(SMALLEST, n_heads=4))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    with pytest.raises(CheckpointError, match=rf"{NAME}\.weight 256 x 256 instead of 128 x 256"):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_a_weight_that_is_there_twice(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    rewrite(tmp_path, lambda stored: stored.update({f"{NAME}.weight": StoredTensor("F16", (1,), b"\0\0")}))
    with pytest.raises(CheckpointError, match=rf"{NAME}\.weight is there both packed and as it is"):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_g_idx_beside_awq(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    rewrite(tmp_path, lambda stored: stored.update({f"{NAME}.g_idx": StoredTensor("I32", (256,), bytes(1024))}))
    with pytest.raises(CheckpointError, match="q_proj is packed, but its g_idx is there, which AWQ does not have"):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_config_json_without_packed_weights(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, SMALLEST)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": AWQ.quantization_config}))
    with pytest.raises(CheckpointError, match=r"says that weights are packed \(AWQ.*\), and none is"):
        plan_conversion(folder, OUTPUT_TYPES["f32"])


def test_packed_weights_without_a_word_in_config_json(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"missing: model\.layers\.0\.\S+\.weight"):
        plan_conversion(tmp_path, OUTPUT_TYPES["f32"])


def test_groups_that_do_not_exist(tmp_path: Path) -> None:
    packed(tmp_path, GPTQ)
    index = np.arange(256, dtype="<i4") // 64
    index[7] = 4
    rewrite(tmp_path, lambda stored: stored.update({f"{NAME}.g_idx": StoredTensor("I32", (256,), index.tobytes())}))
    with pytest.raises(FileFormatError, match=r"tensor \S+q_proj\.g_idx names groups 0 to 4 of 4"):
        run(plan_conversion(tmp_path, OUTPUT_TYPES["f32"]), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_scale_that_is_not_a_number(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    scales = np.full((4, 128), np.nan, np.float16)
    rewrite(tmp_path, lambda stored: stored.update({f"{NAME}.scales": StoredTensor("F16", (4, 128), scales.tobytes())}))
    with pytest.raises(BadWeights, match=r"tensor \S+q_proj\.weight holds nan at row 0, column 0"):
        run(plan_conversion(tmp_path, OUTPUT_TYPES["q8_0"]), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    packed(tmp_path, AWQ)
    plan = plan_conversion(tmp_path, OUTPUT_TYPES["f32"])
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(FileFormatError, match=r"the file ends \S+ bytes too early"):
        run(plan, tmp_path / "m.gguf")
