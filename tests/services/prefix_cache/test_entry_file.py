"""A stored prefix is used as it was written or not at all, whatever happened to its file."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.prefix_cache.entry_file import BadEntry, EntryRecord, check_state, complete_state, read_entry
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.prefix_cache.prefix_store import PrefixStore
from tests.services.prefix_cache.state_files import KEY, OTHER_KEY, RATES, record_of, state_bytes, store_prefix

TOKENS = tuple(range(100, 400))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    store = PrefixStore(PrefixCacheOptions(tmp_path_factory.mktemp("prefixes"), 1 << 20))
    return store_prefix(store, TOKENS).read_bytes()


def is_accepted(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        check_state(read_entry(path, KEY.digest))
    except BadEntry:
        return False
    return True


def test_what_was_written_is_read(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "entry.kv"
    assert is_accepted(path, whole)
    entry = read_entry(path)
    assert tuple(entry.tokens) == TOKENS
    assert entry.record.rates == RATES
    assert entry.record.state_bytes == 12 + 4 * len(TOKENS) + 1000
    with pytest.raises(BadEntry, match="something else"):
        read_entry(path, OTHER_KEY.digest)


@given(where=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_no_bit_may_differ(whole: bytes, tmp_path_factory: pytest.TempPathFactory, where: int, bit: int) -> None:
    damaged = bytearray(whole)
    damaged[where % len(whole)] ^= 1 << bit
    assert not is_accepted(tmp_path_factory.getbasetemp() / "damaged.kv", bytes(damaged))


@pytest.mark.parametrize("n_bytes", [0, 1, 11, 12, 15, 100, 1200, 2000, -1, -16, -17, -300])
def test_a_file_that_was_cut_is_none(whole: bytes, tmp_path: Path, n_bytes: int) -> None:
    assert not is_accepted(tmp_path / "cut.kv", whole[:n_bytes])


def test_a_file_of_anything_else_is_none(whole: bytes, tmp_path: Path) -> None:
    for data in (b"GGUF" + bytes(3000), bytes(3000), whole + b"\0", b"\0" + whole, whole + whole, whole[12:]):
        assert not is_accepted(tmp_path / "foreign.kv", data)


def test_a_file_that_changes_after_it_was_looked_at_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "entry.kv"
    path.write_bytes(whole)
    entry = read_entry(path)
    path.write_bytes(whole[:500])
    with pytest.raises(BadEntry, match="changed"):
        check_state(entry)


def test_a_state_of_which_the_disk_took_less_is_not_completed(tmp_path: Path) -> None:
    data = state_bytes(TOKENS)
    path = tmp_path / "entry.new"
    for written, said in ((data[:-10], len(data)), (data, len(data) + 1), (b"other format" + data, len(data) + 12)):
        path.write_bytes(written)
        with path.open("r+b") as file, pytest.raises(BadEntry):
            complete_state(file.fileno(), replace(record_of(TOKENS, data), state_bytes=said))


@pytest.mark.parametrize(
    "fields",
    [
        {"n_tokens": 0},
        {"n_tokens": 1e3},
        {"n_prompt": 4},
        {"state_bytes": 11},
        {"token_s": -1.0},
        {"pair_s": float("nan")},
    ],
)
def test_records_hold_numbers_that_can_be(fields: dict[str, float]) -> None:
    values = {
        "n_tokens": 3,
        "n_prompt": 2,
        "state_bytes": 1000,
        "state_crc32": 1,
        "token_s": 0.1,
        "pair_s": 0.0,
    } | fields
    with pytest.raises(ValueError, match="state"):
        EntryRecord(KEY.digest, "m", **values)  # type: ignore[arg-type]


def test_a_count_of_tokens_beyond_the_file_is_refused(whole: bytes, tmp_path: Path) -> None:
    assert not is_accepted(tmp_path / "many.kv", whole[:8] + struct.pack("<I", 0xFFFFFFFF) + whole[12:])
