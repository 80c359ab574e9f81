"""The commands on a checkpoint that is quantized already: it converts, it shows, and both say what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ran
from tests.packed_checkpoint import Packing, pack_checkpoint
from tests.quant.conversion_runs import SMALLEST
from tests.tiny_checkpoint import tiny_weights, write_checkpoint

Qwenctl = Callable[..., Ran]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    whole = write_checkpoint(tmp_path / "whole", SMALLEST)
    pack_checkpoint(whole, tmp_path / "awq", tiny_weights(SMALLEST), Packing("awq", group_size=64))
    return tmp_path / "awq"


def test_convert_says_that_the_source_is_quantized(qwenctl: Qwenctl, packed: Path, tmp_path: Path) -> None:
    ran = qwenctl("convert", packed, tmp_path / "m.gguf", "--type", "q4_k_m")
    assert (ran.code, ran.stdout) == (0, f"{tmp_path / 'm.gguf'}\n")
    assert ran.stderr.startswith("the source is quantized already (AWQ, 4 bits, groups of 64)")
    assert qwenctl("verify", tmp_path / "m.gguf").code == 0


def test_show_names_the_packing(qwenctl: Qwenctl, packed: Path) -> None:
    shown = json.loads(qwenctl("show", packed, "--json").stdout)
    types = {family["family"]: family["type_name"] for family in shown["families"]}
    assert types["ffn_up_exps"] == "AWQ-4bit"
    assert types["ffn_gate_inp"] == "BF16"


def test_a_damaged_part_is_one_line(qwenctl: Qwenctl, packed: Path, tmp_path: Path) -> None:
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"]["group_size"] = 48
    (packed / "config.json").write_text(json.dumps(config))
    ran = qwenctl("convert", packed, tmp_path / "m.gguf", "--type", "q8_0")
    assert (ran.code, ran.stdout) == (1, "")
    assert "cannot be AWQ, 4 bits, groups of 48" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "m.gguf").exists()
