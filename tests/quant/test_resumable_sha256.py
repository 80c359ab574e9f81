"""SHA-256 with a state gives hashlib's digests, however its input is cut and wherever its state is moved."""

from __future__ import annotations

import hashlib
import random

import pytest

from quant import resumable_sha256
from quant.resumable_sha256 import ResumableSha256, begin_sha256

needs_extension = pytest.mark.skipif(not resumable_sha256.is_compiled(), reason="quant._sha256 was not built")
both = pytest.mark.parametrize("portable", [False, True], ids=["instructions", "portable"])


def view(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def noise(n_bytes: int) -> bytes:
    return random.Random(n_bytes).randbytes(n_bytes)


@needs_extension
@both
def test_every_length_around_the_blocks(portable: bool) -> None:
    for n_bytes in (*range(260), 1000, 4096, 65537):
        data = noise(n_bytes)
        found = ResumableSha256(portable=portable)
        found.update(view(data))
        assert found.hexdigest() == hashlib.sha256(data).hexdigest(), n_bytes


@needs_extension
@both
def test_every_split_with_the_state_moved(portable: bool) -> None:
    data = noise(300)
    expected = hashlib.sha256(data).hexdigest()
    for cut in range(301):
        first = ResumableSha256(portable=portable)
        first.update(view(data[:cut]))
        assert first.hexdigest() == hashlib.sha256(data[:cut]).hexdigest()  # and may go on after that
        second = ResumableSha256(first.state, portable=not portable)
        second.update(view(data[cut:]))
        assert second.hexdigest() == expected, cut


@needs_extension
@both
def test_many_random_pieces(portable: bool) -> None:
    chance = random.Random(1)
    found, expected = ResumableSha256(portable=portable), hashlib.sha256()
    for _ in range(500):
        data = chance.randbytes(chance.choice([0, 1, 63, 64, 65, chance.randrange(5000)]))
        found = ResumableSha256(found.state, portable=portable)
        found.update(view(data))
        expected.update(data)
    assert found.hexdigest() == expected.hexdigest()


@needs_extension
def test_lengths_past_32_bits_of_bits() -> None:
    data = view(bytes(range(256)) * (1 << 13))  # 2 MiB, 300 times: more than 2^32 bits
    found, expected = ResumableSha256(), hashlib.sha256()
    for _ in range(300):
        found.update(data)
        expected.update(data)
    assert found.hexdigest() == expected.hexdigest()


@needs_extension
def test_an_offset_view_is_hashed_from_its_offset() -> None:
    data = bytearray(noise(1000))
    found = ResumableSha256()
    found.update(memoryview(data)[7:777])
    assert found.hexdigest() == hashlib.sha256(data[7:777]).hexdigest()


@needs_extension
def test_a_state_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a state has 104 bytes, not 3"):
        ResumableSha256(b"abc")


def test_hashlib_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_sha256, "_library", lambda: None)
    found = begin_sha256()
    found.update(view(b"abc"))
    assert (found.hexdigest(), found.state) == (hashlib.sha256(b"abc").hexdigest(), None)
    with pytest.raises(ValueError, match="was not built"):
        begin_sha256(b"x" * 104)
