"""Every malformed safetensors file gives its one error, and no mutation of a valid one gives any other kind."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from quant.errors import SafetensorsError
from quant.safetensors_read import read_safetensors
from tests.attacks.case import Case
from tests.attacks.malformed_safetensors import CASES, entry, file_bytes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_refused_with_its_cause(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    with pytest.raises(case.error) as caught:
        read_safetensors(path)
    assert type(caught.value) is case.error
    assert case.fragment in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 30


def _valid() -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "model.a": entry("BF16", [2, 3], [0, 12]),
        "model.b": entry("F32", [], [12, 16]),
        "model.c": entry("I64", [0, 5], [16, 16]),
        "model.d": entry("U8", [7], [16, 23]),
    }
    return file_bytes(json.dumps(header).encode(), bytes(range(23)))


def _fuzz(folder: Path, n_mutants: int) -> int:
    """Open mutants of a valid file; return how many were refused. Any other exception fails the test."""
    generator, valid, path, refused = random.Random(0), _valid(), folder / "mutant.safetensors", 0
    for _ in range(n_mutants):
        data = bytearray(valid)
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            kind = generator.randrange(4)
            position = generator.randrange(len(data))
            if kind == 0:
                data[position] = generator.randrange(256)
            elif kind == 1:
                data[position] ^= 1 << generator.randrange(8)
            elif kind == 2:
                del data[position : position + generator.randrange(1, 8)]
            else:
                data[position:position] = generator.choice((b'"', b"[", b"{", b"-", b"9", b",", b"1e9", b"\0", b"true"))
        path.write_bytes(data)
        try:
            file = read_safetensors(path)
        except SafetensorsError:
            refused += 1
        else:
            assert all(info.offset_bytes + info.n_bytes <= len(data) for info in file.tensors.values())
    return refused


def test_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    assert _fuzz(tmp_path, 3_000) > 2_000


@pytest.mark.slow
def test_many_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    assert _fuzz(tmp_path, 200_000) > 130_000
