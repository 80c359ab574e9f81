"""The plan: everything about the file, before it is written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from quant.conversion_plan import ALIGNMENT_BYTES, ConversionPlan, plan_conversion
from quant.errors import CheckpointError, UnsupportedArchitecture
from quant.gguf_read import read_gguf
from quant.recipe import OUTPUT_TYPES
from tests.quant.conversion_runs import run

ALL = ("tiny_moe_folder", "tiny_moe_fused_folder", "tiny_moe_tied_folder", "tiny_qwen3_folder", "tiny_qwen2_folder")


def plan_of(folder: Path, output_type: str = "q4_k_m") -> ConversionPlan:
    return plan_conversion(folder, OUTPUT_TYPES[output_type])


@pytest.mark.parametrize("fixture", ALL)
def test_the_file_is_what_was_planned(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    plan = plan_of(request.getfixturevalue(fixture), "q8_0")
    run(plan, tmp_path / "m.gguf", n_threads=2)
    gguf = read_gguf(tmp_path / "m.gguf")
    assert gguf.alignment == ALIGNMENT_BYTES
    assert gguf.size_bytes == plan.total_bytes
    assert [(t.name, t.shape, t.dtype, t.offset_bytes, t.n_bytes) for t in gguf.tensors.values()] == [
        (t.name, t.shape, t.type.name, t.offset_bytes, t.n_bytes) for t in plan.layout.placed
    ]


def test_every_tensor_starts_on_a_page(tiny_moe_folder: Path) -> None:
    assert all(tensor.offset_bytes % ALIGNMENT_BYTES == 0 for tensor in plan_of(tiny_moe_folder).layout.placed)


def test_the_experts_of_a_layer_are_adjacent(tiny_moe_folder: Path) -> None:
    names = [tensor.name for tensor in plan_of(tiny_moe_folder).layout.placed]
    for layer in range(3):
        places = [i for i, name in enumerate(names) if name.startswith(f"blk.{layer}.") and "_exps" in name]
        assert [after - before for before, after in pairwise(places)] == [1, 1]


def test_both_layouts_of_experts_give_one_file(
    tiny_moe_folder: Path, tiny_moe_fused_folder: Path, tmp_path: Path
) -> None:
    for name, folder in (("a", tiny_moe_folder), ("b", tiny_moe_fused_folder)):
        run(plan_of(folder, "bf16"), tmp_path / f"{name}.gguf")
    first, second = read_gguf(tmp_path / "a.gguf"), read_gguf(tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes()[first.data_offset_bytes :] == (tmp_path / "b.gguf").read_bytes()[
        second.data_offset_bytes :
    ]


def test_totals_are_those_of_the_tensors(tiny_moe_folder: Path) -> None:
    plan = plan_of(tiny_moe_folder)
    totals = plan.family_totals()
    assert sum(total.n_weights for total in totals) == plan.n_weights
    assert sum(total.n_bytes for total in totals) == sum(tensor.n_bytes for tensor in plan.layout.placed)
    assert [total.n_tensors for total in totals if total.family == "ffn_up_exps"] == [3]
    assert 4.5 < plan.bits_per_weight < 6


def test_identity_names_type_and_files_but_not_the_folder(tiny_moe_folder: Path) -> None:
    identity = plan_of(tiny_moe_folder).identity
    assert identity["output type"] == "q4_k_m"
    assert {"source file config.json", "source file tokenizer.json"} <= identity.keys()
    assert str(tiny_moe_folder) not in "".join(identity.values())


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"config\.json"):
        plan_of(tmp_path)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
    with pytest.raises(UnsupportedArchitecture, match="MambaForCausalLM") as refused:
        plan_of(tmp_path)
    assert "Qwen3MoeForCausalLM" in (refused.value.hint or "")


def test_weights_that_do_not_belong_are_refused(tiny_qwen3_folder: Path, tiny_moe_folder: Path, tmp_path: Path) -> None:
    for path in tiny_moe_folder.iterdir():
        source = tiny_qwen3_folder / "config.json" if path.name == "config.json" else path
        (tmp_path / path.name).symlink_to(source)
    with pytest.raises(CheckpointError, match=r"ffn|mlp"):
        plan_of(tmp_path)
