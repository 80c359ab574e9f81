"""The folder of stored prefixes: the longest is found, the oldest goes, processes do not disturb each other."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quant.durable_files import DurableFiles
from qwenctl.services.prefix_cache import prefix_store
from qwenctl.services.prefix_cache.entry_file import BadEntry
from qwenctl.services.prefix_cache.options import PrefixCacheOptions, default_limit
from qwenctl.services.prefix_cache.prefix_store import PrefixStore, stored_files
from tests.services.prefix_cache.state_files import KEY, OTHER_KEY, record_of, state_bytes, store_prefix

A, B = tuple(range(300)), (*range(250), *range(900, 1000))


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(PrefixCacheOptions(tmp_path / "prefixes", 1 << 20))


def names(tmp_path: Path) -> set[str]:
    return {file.path.name for file in stored_files(tmp_path / "prefixes")}


def best(store: PrefixStore, tokens: tuple[int, ...], *, whole: bool = False) -> tuple[int, int] | None:
    match = store.best(KEY, tokens, 10_000, whole=whole)
    return None if match is None else (match.n_common, len(match.entry.tokens))


def test_the_prefix_with_most_in_common_is_found(store: PrefixStore) -> None:
    assert best(store, A) is None
    store_prefix(store, A)
    store_prefix(store, B)
    assert best(store, (*A, 5, 6)) == (300, 300)
    assert best(store, (*B[:260], 7)) == (260, 350)
    assert best(store, A[:100]) == (100, 300)
    assert best(store, (7, 8, 9)) is None
    too_long = store.best(KEY, (*B[:260], 7), 349, whole=False)
    assert too_long is not None
    assert len(too_long.entry.tokens) == 300  # the next best that a context of 349 holds
    assert store.best(OTHER_KEY, A, 10_000, whole=False) is None


def test_where_nothing_can_be_taken_back_only_a_whole_prefix_will_do(store: PrefixStore) -> None:
    store_prefix(store, A)
    store_prefix(store, A[:200])
    assert best(store, (*A[:299], 7, 8), whole=True) == (200, 200)
    assert best(store, (*A, 7), whole=True) == (300, 300)


def test_files_and_folders_are_their_owners_alone(store: PrefixStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = store_prefix(store, A)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, tmp_path / "prefixes"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = PrefixStore(PrefixCacheOptions(tmp_path / "prefixes", 30_000))
    paths = [store_prefix(store, (n, *A), n_cell_bytes=5000) for n in range(3)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    match = store.best(KEY, (2, *A), 10_000, whole=False)
    assert match is not None
    store.used(match.entry)
    store_prefix(store, (3, *A), key=OTHER_KEY, n_cell_bytes=12_000)
    assert [path.exists() for path in paths] == [False, False, True]
    assert sum(file.file_bytes for file in stored_files(tmp_path / "prefixes")) <= 30_000


def test_what_is_larger_than_all_may_be_is_not_written_and_removes_nothing(tmp_path: Path) -> None:
    store = PrefixStore(PrefixCacheOptions(tmp_path / "prefixes", 10_000))
    path = store_prefix(store, A)
    assert not store.make_room(10_001)
    assert path.exists()


class _FullDisk(DurableFiles):
    def __init__(self, free_bytes: int) -> None:
        self.free = free_bytes

    def free_bytes(self, folder: Path) -> int:
        return self.free

    def sync_data(self, fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path) -> None:
    options = PrefixCacheOptions(tmp_path / "prefixes", 1 << 40)
    path = store_prefix(PrefixStore(options), A)
    assert not PrefixStore(options, _FullDisk(1 << 20)).make_room(1000)
    assert path.exists()
    assert PrefixStore(options, _FullDisk((1 << 30) + 1000)).make_room(1000)


def test_a_disk_that_is_full_in_the_end_leaves_nothing_under_a_final_name(tmp_path: Path) -> None:
    store = PrefixStore(PrefixCacheOptions(tmp_path / "prefixes", 1 << 40), _FullDisk(1 << 40))
    assert store.make_room(5000)
    unfinished = store.begin(KEY, A)
    data = state_bytes(A)
    unfinished.write_bytes(data)
    with pytest.raises(OSError, match="No space"):
        store.publish(unfinished, record_of(A, data))
    assert not names(tmp_path)
    store.abandon(unfinished)
    assert not list(unfinished.parent.iterdir())


def test_default_limit() -> None:
    assert default_limit(50 << 30, 0) == 5 << 30
    assert default_limit(45 << 30, 5 << 30) == 5 << 30  # what it takes itself does not make it smaller
    assert default_limit(900 << 30, 0) == 10 << 30


def test_damaged_and_foreign_files_are_removed(store: PrefixStore) -> None:
    path = store_prefix(store, A)
    path.write_bytes(path.read_bytes()[:-1])
    foreign = path.with_name("0" * 32 + ".kv")
    foreign.write_bytes(b"something else")
    moved = store_prefix(store, B, OTHER_KEY)
    moved.rename(path.with_name(moved.name))
    assert best(store, A) is None
    assert not list(path.parent.iterdir())


def test_a_longer_prefix_takes_the_place_of_what_it_begins_with(store: PrefixStore, tmp_path: Path) -> None:
    short, other = store_prefix(store, A[:260]), store_prefix(store, B)
    long = store_prefix(store, A)
    store.drop_parts(KEY, A)
    assert names(tmp_path) == {long.name, other.name}
    assert not short.exists()


def test_a_turn_is_part_of_the_next_one_though_its_reasoning_is_not(store: PrefixStore, tmp_path: Path) -> None:
    asked = A[:260]
    store_prefix(store, (*asked, *range(900, 1000)), n_prompt=len(asked))
    other_question = store_prefix(store, (*asked, 7, *range(800, 900)), n_prompt=len(asked) + 1)
    new = store_prefix(store, A)
    store.drop_parts(KEY, A)
    assert names(tmp_path) == {new.name, other_question.name}


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(
    store: PrefixStore, tmp_path: Path
) -> None:
    unfinished = store.begin(KEY, A)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = unfinished.with_name(f"{'1' * 32}.{int(dead.stdout)}.new")
    left.write_bytes(b"half of it")
    assert store.make_room(10)
    assert unfinished.exists()
    assert not left.exists()
    assert not names(tmp_path)


def test_the_same_prefix_is_not_written_twice_at_once(store: PrefixStore) -> None:
    store.begin(KEY, A)
    with pytest.raises(FileExistsError):
        store.begin(KEY, A)


def test_many_writers_and_removers_leave_whole_files_only(tmp_path: Path) -> None:
    """Each thread has a store of its own, as processes do; the limit makes them remove each other's files."""
    options, failures = PrefixCacheOptions(tmp_path / "prefixes", 20_000), []

    def work(number: int) -> None:
        store = PrefixStore(options)
        try:
            for n in range(15):
                tokens = (number, n, *range(50))
                store.make_room(3000)
                unfinished = store.begin(KEY, tokens)
                data = state_bytes(tokens)
                unfinished.write_bytes(data)
                store.publish(unfinished, record_of(tokens, data))
                match = store.best(KEY, tokens, 10_000, whole=False)
                assert match is None or tuple(match.entry.tokens[: match.n_common]) == tokens[: match.n_common]
        except (OSError, BadEntry, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(path.suffix == ".kv" for path in (tmp_path / "prefixes" / KEY.digest).iterdir())
    assert sum(file.file_bytes for file in stored_files(tmp_path / "prefixes")) <= 20_000 + 4 * 3000


def test_a_file_that_goes_while_it_is_looked_at_is_passed_over(
    store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store_prefix(store, A)

    def gone(_path: Path, _key: str) -> object:
        raise FileNotFoundError(path)

    monkeypatch.setattr(prefix_store, "read_entry", gone)
    assert store.best(KEY, A, 10_000, whole=False) is None
