"""Recipe files: what is written is read again, and what does not fit a model is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quant.errors import JsonFileError, RecipeMismatch
from quant.ggml_types import GGML_TYPES
from quant.recipe_file import TypeRecipe, read_recipe, types_of, write_recipe
from tests.quant.disk_faults import FailingFiles

SHAPES = {"token_embd.weight": (512, 256), "blk.0.attn_norm.weight": (256,), "blk.0.attn_q.weight": (64, 256)}
RECIPE = TypeRecipe(
    "qwen3", "4.5bpw", {"token_embd.weight": GGML_TYPES["Q4_K"], "blk.0.attn_q.weight": GGML_TYPES["Q8_0"]}
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    write_recipe(RECIPE, path)
    assert read_recipe(path) == RECIPE
    assert list(tmp_path.iterdir()) == [path]
    types = types_of(RECIPE, "qwen3", SHAPES)
    assert {name: one.name for name, one in types.items()} == {
        "token_embd.weight": "Q4_K",
        "blk.0.attn_norm.weight": "F32",
        "blk.0.attn_q.weight": "Q8_0",
    }


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    write_recipe(RECIPE, path)
    before = path.read_bytes()
    for n_calls in range(1, 6):
        with pytest.raises(OSError, match=r"\S"):
            write_recipe(TypeRecipe("qwen3", "other", RECIPE.types), path, FailingFiles(n_calls))
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a recipe of version 1"),
        ({"version": 2}, "not a recipe of version 1"),
        ({"types": {}}, "types must name a type for each tensor"),
        ({"types": {"blk.0.attn_q.weight": "Q9_K"}}, "blk.0.attn_q.weight: .*Q9_K.* is not a type that can be written"),
        ({"types": {"blk.0.attn_q.weight": 4}}, "is not a type that can be written"),
        ({"types": {"blk.0.attn_q.weight": "IQ2_XS"}}, "is not a type that can be written"),
        ({"architecture": 7}, "architecture must be"),
    ],
)
def test_malformed_files(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "recipe.json"
    write_recipe(RECIPE, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(JsonFileError, match=message):
        read_recipe(path)


@pytest.mark.parametrize(
    ("architecture", "types", "message"),
    [
        ("qwen2", RECIPE.types, "for .*qwen3.*, the model is qwen2"),
        ("qwen3", {"token_embd.weight": GGML_TYPES["Q4_K"]}, "no type for .*blk.0.attn_q.weight"),
        (
            "qwen3",
            {**RECIPE.types, "blk.9.attn_q.weight": GGML_TYPES["Q4_K"]},
            "blk.9.attn_q.weight.* not in the model",
        ),
        ("qwen3", {**RECIPE.types, "blk.0.attn_norm.weight": GGML_TYPES["Q8_0"]}, "attn_norm.weight.* stays F32"),
    ],
)
def test_recipes_of_other_models(architecture: str, types: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeMismatch, match=message):
        types_of(TypeRecipe("qwen3", "", types), architecture, SHAPES)  # type: ignore[arg-type]


def test_blocks_must_divide_rows() -> None:
    with pytest.raises(RecipeMismatch, match="rows of 96, which blocks of Q4_K do not divide"):
        types_of(TypeRecipe("qwen3", "", {"output.weight": GGML_TYPES["Q4_K"]}), "qwen3", {"output.weight": (8, 96)})
