"""Every malformed GGUF file gives its one error, and no mutation of a valid one gives any other kind."""

from __future__ import annotations

import random
from math import prod
from pathlib import Path

import pytest

from quant.errors import GgufError
from quant.gguf_check import check_model
from quant.gguf_read import read_gguf
from tests.attacks.case import Case
from tests.attacks.malformed_gguf import ABORTS_LLAMA_CPP, CASES, CONTAINER_CASES, MODEL_CASES
from tests.tiny_gguf import TinyGguf


@pytest.mark.parametrize("case", CONTAINER_CASES, ids=str)
def test_container_is_refused_with_its_cause(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    with pytest.raises(case.error) as caught:
        read_gguf(path)
    _check_message(caught.value, case, path)


@pytest.mark.parametrize("case", MODEL_CASES, ids=str)
def test_model_is_refused_with_its_cause(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    gguf = read_gguf(path)
    with pytest.raises(case.error) as caught:
        check_model(gguf)
    _check_message(caught.value, case, path)


def _check_message(error: Exception, case: Case, path: Path) -> None:
    assert type(error) is case.error
    assert case.fragment in str(error)
    assert str(error).startswith(str(path.parent))
    assert "\n" not in str(error)
    assert len(str(error)) < 400 + len(str(path))


def test_cases_have_names_of_their_own() -> None:
    names = {case.name for case in CASES}
    assert len(names) == len(CASES) >= 60
    assert names >= set(ABORTS_LLAMA_CPP)


def _fuzz(folder: Path, n_mutants: int) -> int:
    """Open mutants of a tiny model; return how many were refused. Any other exception fails the test."""
    generator, path, refused = random.Random(0), folder / "mutant.gguf", 0
    model = TinyGguf.of()
    for tensor in model.tensors.values():
        tensor.data = bytes(4 * prod(tensor.shape))
    valid = model.to_bytes()
    header_bytes = valid.index(b"blk.1.ffn_down_exps.weight") + 80
    for _ in range(n_mutants):
        data = bytearray(valid[: header_bytes + 64])
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            kind = generator.randrange(4)
            position = generator.randrange(header_bytes)
            if kind == 0:
                data[position] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
            elif kind == 1:
                data[position] ^= 1 << generator.randrange(8)
            elif kind == 2:
                del data[position : position + generator.randrange(1, 9)]
            else:
                data[position : position + 8] = b"\xff" * 8
        with path.open("wb") as file:
            file.write(data)
            file.truncate(max(len(data), len(valid)))
        try:
            check_model(read_gguf(path))
        except GgufError:
            refused += 1
    return refused


def test_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    assert _fuzz(tmp_path, 3_000) > 1_000


@pytest.mark.slow
def test_many_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    assert _fuzz(tmp_path, 50_000) > 15_000
