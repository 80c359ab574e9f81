"""Reads of expert slices: the right bytes in the right place and nowhere else, and for every fault a failed ticket."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe import direct_file
from qwenctl.moe.expert_map import Slice
from qwenctl.moe.expert_reader import ExpertReader
from qwenctl.moe.read_queue import ReadTicket

_CANARY = 0xA5
_TIMEOUT_S = 30
_FILE_BYTES = 300_007  # not a multiple of anything


class Memory:
    """Page-aligned memory full of canaries."""

    def __init__(self, n_bytes: int = 1 << 20) -> None:
        self.map = mmap.mmap(-1, n_bytes)
        self.map[:] = bytes([_CANARY]) * n_bytes
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def holds_only(self, *pieces: tuple[int, bytes]) -> bool:
        """Tell whether the pieces are at their offsets and canaries everywhere else."""
        expected = bytearray([_CANARY]) * len(self.map)
        for offset, data in pieces:
            expected[offset : offset + len(data)] = data
        return self.map[:] == expected


class Pread:
    """os.preadv with something else at chosen calls, counted over all threads."""

    def __init__(self, faults: dict[int, Callable[[int, Sequence[Any], int], int]] | None = None) -> None:
        self.faults = faults or {}
        self.numbers = itertools.count()
        self.calls: list[tuple[int, int, int, int]] = []  # offset, address, bytes asked for, bytes returned

    def __call__(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        read = self.faults.get(next(self.numbers), os.preadv)
        got = read(fd, buffers, offset)
        self.calls.append((offset, ctypes.addressof(buffers[0]), len(buffers[0]), got))
        return got


class Gate:
    """A pread that waits at each call until it is let through."""

    def __init__(self) -> None:
        self.arrived, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self.arrived.release()
        assert self.open.acquire(timeout=_TIMEOUT_S)
        return os.preadv(fd, buffers, offset)

    def wait_for_arrival(self) -> None:
        assert self.arrived.acquire(timeout=_TIMEOUT_S)

    def let_through(self, n: int = 1) -> None:
        self.open.release(n)


def _no_disk(fd: int, buffers: Sequence[Any], offset: int) -> int:
    raise OSError(errno.EIO, "Input/output error")


def _half(fd: int, buffers: Sequence[Any], offset: int) -> int:
    return os.preadv(fd, [memoryview(buffers[0])[: len(buffers[0]) // 2]], offset)


def _nothing(fd: int, buffers: Sequence[Any], offset: int) -> int:
    return 0


def _interrupted(fd: int, buffers: Sequence[Any], offset: int) -> int:
    raise InterruptedError(errno.EINTR, "Interrupted system call")


def _no_such_alignment(fd: int, buffers: Sequence[Any], offset: int) -> int:
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, bytes]:
    data = random.Random(1).randbytes(_FILE_BYTES)
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    os.utime(path, ns=(0, 10**18))  # so that whatever is written later has another time
    return path, data


@pytest.fixture(params=[None, False], ids=["direct", "buffered"])
def direct(request: pytest.FixtureRequest) -> bool | None:
    return request.param


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    def held() -> tuple[int, set[str]]:
        threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("expert-reader")}
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0, threads

    before = held()
    yield
    assert held() == before


def _failure(ticket: ReadTicket) -> str:
    with pytest.raises(ExpertReadFailed) as caught:
        ticket.wait()
    assert ticket.done
    assert ticket.error is caught.value
    assert "\n" not in caught.value.message
    return caught.value.message


# Right bytes in the right place


@pytest.mark.parametrize("offset", [0, 32, 512, 4096, 4097, 12_288 + 511])
@pytest.mark.parametrize("n_bytes", [1, 31, 512, 4096, 8192, 70_001])
def test_an_address_gets_the_slice_and_nothing_more(
    offset: int, n_bytes: int, direct: bool | None, model: tuple[Path, bytes]
) -> None:
    path, data = model
    pread = Pread()
    with ExpertReader([path], direct=direct, pread=pread) as reader:
        granules = reader.granules
        for at in (4096, 4096 + 512, 5000):
            memory = Memory(1 << 18)
            reader.submit("it", [(Slice(0, offset, n_bytes), memory.address + at)]).wait()
            assert memory.holds_only((at, data[offset : offset + n_bytes]))
        assert reader.granules == granules  # no read had to fall back to the page cache
    assert all(start >= 0 and start + got <= len(data) for start, _, _, got in pread.calls)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_slice_up_to_the_last_byte(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    content = random.Random(2).randbytes(40_000 + 13)
    if not path.exists():
        path.write_bytes(content)
    offset = data.draw(st.integers(0, len(content) - 1))
    n_bytes = data.draw(st.one_of(st.integers(1, len(content) - offset), st.just(len(content) - offset)))
    at = data.draw(st.integers(0, 9000))
    memory = Memory(1 << 16)
    seen: list[bytes] = []
    with ExpertReader([path], n_threads=2, direct=data.draw(st.sampled_from([None, False]))) as reader:
        piece = Slice(0, offset, n_bytes)
        whole = [(piece, memory.address + at), (piece, lambda staged: seen.append(ctypes.string_at(staged, n_bytes)))]
        reader.submit("it", whole).wait()
    assert memory.holds_only((at, content[offset : offset + n_bytes]))
    assert seen == [content[offset : offset + n_bytes]]


def test_what_is_aligned_goes_straight_there_and_what_is_not_is_staged(model: tuple[Path, bytes]) -> None:
    path, _ = model
    pread, memory = Pread(), Memory()
    with ExpertReader([path], n_threads=1, pread=pread) as reader:
        (granule,) = reader.granules
        if not granule:
            pytest.skip("no O_DIRECT here")
        reader.submit("straight", [(Slice(0, 4096, 8192), memory.address)]).wait()
        reader.submit("staged", [(Slice(0, 4096 + 32, 8192), memory.address)]).wait()
    straight, staged = pread.calls
    assert straight == (4096, memory.address, 8192, 8192)
    assert staged[0] == 4096
    assert staged[2] == 8192 + granule
    assert not memory.address <= staged[1] < memory.address + len(memory.map)


def test_buffered_reads_leave_nothing_in_the_page_cache(
    model: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = model
    dropped: list[tuple[int, int]] = []
    monkeypatch.setattr(direct_file, "drop_from_cache", lambda fd, offset, n_bytes: dropped.append((offset, n_bytes)))
    memory = Memory()
    with ExpertReader([path], direct=False) as reader:
        assert reader.granules == (0,)
        reader.submit("it", [(Slice(0, 100, 9000), memory.address)]).wait()
    assert dropped == [(100, 9000)]
    assert memory.holds_only((0, data[100:9100]))


def test_where_there_is_no_o_direct(model: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = model
    monkeypatch.setattr(direct_file, "_O_DIRECT", 0)
    memory = Memory()
    with ExpertReader([path], pread=direct_file._seek_and_read) as reader:
        assert reader.granules == (0,)
        tickets = [reader.submit("it", [(Slice(0, n, 1000), memory.address + 1000 * n)]) for n in range(100)]
        for ticket in tickets:
            ticket.wait()
    assert memory.holds_only(*((1000 * n, data[n : n + 1000]) for n in range(100)))
    with pytest.raises(ExpertReadFailed, match=r"model\.gguf: the file system does not allow O_DIRECT"):
        ExpertReader([path], direct=True)


def test_einval_under_o_direct_goes_on_through_the_page_cache(model: tuple[Path, bytes]) -> None:
    path, data = model
    memory = Memory()
    with ExpertReader([path], n_threads=1, pread=Pread({0: _no_such_alignment})) as reader:
        if not reader.granules[0]:
            pytest.skip("no O_DIRECT here")
        for at in (0, 8192):
            reader.submit("it", [(Slice(0, 4096, 4096), memory.address + at)]).wait()
        assert reader.granules == (0,)
    assert memory.holds_only((0, data[4096:8192]), (8192, data[4096:8192]))


def test_reads_longer_than_the_system_allows_are_cut(
    direct: bool | None, model: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = model
    monkeypatch.setattr(direct_file, "MAX_READ_BYTES", 8192)
    pread, memory = Pread(), Memory()
    with ExpertReader([path], direct=direct, pread=pread) as reader:
        for at, offset in ((0, 4096), (1 << 18, 100), (1 << 19, _FILE_BYTES - 30_000)):
            reader.submit("it", [(Slice(0, offset, 30_000), memory.address + at)]).wait()
    spans = ((0, 4096), (1 << 18, 100), (1 << 19, _FILE_BYTES - 30_000))
    assert memory.holds_only(*((at, data[offset : offset + 30_000]) for at, offset in spans))
    assert len(pread.calls) >= 12
    assert max(asked for _, _, asked, _ in pread.calls) == 8192


def test_two_files_and_the_counts(model: tuple[Path, bytes], tmp_path: Path) -> None:
    path, data = model
    other = tmp_path / "other.gguf"
    other.write_bytes(data[::-1])
    memory = Memory()
    with ExpertReader([path, other], file_bytes=[_FILE_BYTES, _FILE_BYTES]) as reader:
        parts = [(Slice(0, 7, 5000), memory.address), (Slice(1, 7, 6000), memory.address + 8192)]
        ticket = reader.submit("it", parts)
        ticket.wait()
        ticket.wait()  # as often as one likes
        assert ticket.done
        assert (reader.bytes_read, reader.n_reads) == (11_000, 2)
        assert reader.busy_s > 0
        empty = reader.submit("nothing", [])
        assert empty.done
        empty.wait()
    assert memory.holds_only((0, data[7:5007]), (8192, data[::-1][7:6007]))


# Order, threads and tickets


def test_urgent_before_the_others_and_first_in_first_out(model: tuple[Path, bytes]) -> None:
    gate, order = Gate(), []
    with ExpertReader([model[0]], n_threads=1, pread=gate) as reader:

        def submit(name: str, urgent: bool) -> ReadTicket:
            parts = [(Slice(0, 0, 64), lambda staged, name=f"{name}{n}": order.append(name)) for n in range(2)]
            return reader.submit(name, parts, urgent=urgent)

        tickets = [submit("a", False)]
        gate.wait_for_arrival()
        tickets += [submit("b", False), submit("c", True), submit("d", False), submit("e", True)]
        assert not any(ticket.done for ticket in tickets)
        gate.let_through(10)
        for ticket in tickets:
            ticket.wait()
    assert order == ["a0", "c0", "c1", "e0", "e1", "a1", "b0", "b1", "d0", "d1"]


def test_parts_of_one_ticket_are_read_at_the_same_time(model: tuple[Path, bytes]) -> None:
    together = threading.Barrier(3, timeout=_TIMEOUT_S)

    def pread(fd: int, buffers: Sequence[Any], offset: int) -> int:
        together.wait()
        return os.preadv(fd, buffers, offset)

    memory = Memory()
    with ExpertReader([model[0]], n_threads=3, pread=pread) as reader:
        reader.submit("it", [(Slice(0, n * 100, 100), memory.address + n * 100) for n in range(3)]).wait()
    assert memory.holds_only((0, model[1][:300]))


def test_functions_run_in_threads_that_were_started_up(model: tuple[Path, bytes]) -> None:
    started: list[int] = []
    used: list[int] = []
    with ExpertReader([model[0]], on_thread_start=lambda: started.append(threading.get_ident())) as reader:
        parts = [(Slice(0, 0, 100), lambda staged: used.append(threading.get_ident())) for _ in range(40)]
        reader.submit("it", parts).wait()
    assert len(used) == 40
    assert set(used) <= set(started)
    assert threading.get_ident() not in started


def test_cancel_only_what_nobody_has_begun_with(model: tuple[Path, bytes]) -> None:
    gate, memory = Gate(), Memory()
    with ExpertReader([model[0]], n_threads=1, pread=gate) as reader:
        begun = reader.submit("begun", [(Slice(0, 0, 100), memory.address)] * 2)
        gate.wait_for_arrival()
        waiting = reader.submit("waiting", [(Slice(0, 0, 100), memory.address + 4096)] * 3)
        last = reader.submit("last", [(Slice(0, 0, 100), memory.address + 8192)])
        assert not begun.cancel()
        assert waiting.cancel()
        assert "waiting: the read was cancelled" in _failure(waiting)
        gate.let_through(3)
        begun.wait()
        last.wait()
        assert not last.cancel()
    assert memory.holds_only((0, model[1][:100]), (8192, model[1][:100]))


def test_several_threads_wait_for_one_ticket(model: tuple[Path, bytes]) -> None:
    gate = Gate()
    with ExpertReader([model[0]], n_threads=1, pread=gate) as reader:
        ticket = reader.submit("it", [(Slice(0, 0, 100), lambda staged: None)])
        waiting = [threading.Thread(target=ticket.wait) for _ in range(4)]
        for thread in waiting:
            thread.start()
        gate.let_through()
        for thread in waiting:
            thread.join(_TIMEOUT_S)
        assert not any(thread.is_alive() for thread in waiting)


# Faults


@pytest.mark.parametrize(
    ("fault", "message"),
    [(_no_disk, "Input/output error"), (_half, "bytes instead of"), (_nothing, "0 bytes instead of")],
)
@pytest.mark.parametrize("n_threads", [1, 4])
def test_a_fault_at_any_call_fails_that_ticket_alone(
    fault: Callable[..., int], message: str, n_threads: int, direct: bool | None, model: tuple[Path, bytes]
) -> None:
    path, data = model
    sizes = (8192, 5000, 4096)
    for call in range(9):
        memory = Memory(1 << 17)
        with ExpertReader([path], n_threads=n_threads, direct=direct, pread=Pread({call: fault})) as reader:
            tickets: list[tuple[ReadTicket, list[tuple[int, bytes]]]] = []
            for expert in range(3):
                spans = [(32768 * expert + 8192 * n, 4096 * (expert + n), size) for n, size in enumerate(sizes)]
                parts = [(Slice(0, offset, size), memory.address + at) for at, offset, size in spans]
                right = [(at, data[offset : offset + size]) for at, offset, size in spans]
                tickets.append((reader.submit(f"expert {expert} of layer 7", parts), right))
            for ticket, _ in tickets:
                with suppress(ExpertReadFailed):
                    ticket.wait()
            (failed,) = [ticket for ticket, _ in tickets if ticket.error is not None]
            for ticket, right in tickets:
                assert ticket is failed or all(memory.map[at : at + len(found)] == found for at, found in right)
            error = failed.error
            assert f"{failed.what}: {path} at byte " in error.message
            assert message in error.message
            assert error.hint is not None
            reader.submit("afterwards", [(Slice(0, 0, 100), memory.address)]).wait()


def test_an_interrupted_read_is_done_again(direct: bool | None, model: tuple[Path, bytes]) -> None:
    memory = Memory()
    pread = Pread({0: _interrupted, 1: _interrupted})
    with ExpertReader([model[0]], n_threads=1, direct=direct, pread=pread) as reader:
        reader.submit("it", [(Slice(0, 4096, 8192), memory.address)]).wait()
    assert memory.holds_only((0, model[1][4096 : 4096 + 8192]))


def _truncate(path: Path) -> None:
    os.truncate(path, _FILE_BYTES - 1)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, 10**18))
    other.replace(path)


_CHANGES = [
    (_truncate, "the file was changed: 300,006 bytes now, 300,007 when it was opened"),
    (_append, "the file was changed: 300,008 bytes now"),
    (_overwrite, "written to since"),
    (_replace, "replaced by another"),
    (Path.unlink, "the file is gone"),
]


@pytest.mark.parametrize(("change", "message"), _CHANGES)
def test_a_file_that_changes_while_it_is_open(
    change: Callable[[Path], None], message: str, direct: bool | None, model: tuple[Path, bytes]
) -> None:
    memory, called = Memory(), []
    with ExpertReader([model[0]], direct=direct) as reader:
        reader.submit("before", [(Slice(0, 100, 5000), memory.address)]).wait()
        change(model[0])
        for destination in (memory.address, called.append):
            assert message in _failure(reader.submit("after", [(Slice(0, 100, 5000), destination)]))
    assert not called  # nothing is made of bytes that nobody vouches for


@pytest.mark.parametrize(("change", "message"), _CHANGES)
def test_a_file_that_changes_between_the_read_and_its_end(
    change: Callable[[Path], None], message: str, direct: bool | None, model: tuple[Path, bytes]
) -> None:
    def read_and_change(fd: int, buffers: Sequence[Any], offset: int) -> int:
        got = os.preadv(fd, buffers, offset)
        change(model[0])
        return got

    memory = Memory()
    with ExpertReader([model[0]], direct=direct, pread=Pread({0: read_and_change})) as reader:
        assert message in _failure(reader.submit("it", [(Slice(0, 100, 5000), memory.address)]))


def test_truncation_right_before_a_read_of_the_end(direct: bool | None, model: tuple[Path, bytes]) -> None:
    memory = Memory()
    with ExpertReader([model[0]], direct=direct) as reader:
        os.truncate(model[0], 200_000)
        ticket = reader.submit("it", [(Slice(0, 150_000, _FILE_BYTES - 150_000), memory.address)])
        assert "bytes instead of" in _failure(ticket)


@pytest.mark.parametrize("error", [ValueError("no\nroom"), SystemExit(3), KeyboardInterrupt()])
def test_a_function_that_raises(error: BaseException, model: tuple[Path, bytes]) -> None:
    def destination(staged: int) -> None:
        raise error

    memory = Memory()
    with ExpertReader([model[0]], n_threads=1) as reader:
        for _ in range(3):
            message = _failure(reader.submit("expert 3", [(Slice(0, 64, 100), destination)]))
            assert f"expert 3: {model[0]} at byte 64: {type(error).__name__}" in message
        reader.submit("it", [(Slice(0, 0, 100), memory.address)]).wait()
    assert memory.holds_only((0, model[1][:100]))


def test_a_failed_ticket_is_done_when_nobody_writes_to_its_destinations_any_more(model: tuple[Path, bytes]) -> None:
    gate, memory = Gate(), Memory()
    reads = Pread({0: gate, 1: _no_disk})
    with ExpertReader([model[0]], n_threads=2, direct=False, pread=reads) as reader:
        ticket = reader.submit("it", [(Slice(0, n, 100), memory.address + 4096 * n) for n in range(5)])
        gate.wait_for_arrival()
        other = reader.submit("other", [(Slice(0, 0, 10), memory.address + (1 << 19))])
        other.wait()  # first in, first out: by now the second part has failed and the others were left out
        assert ticket.error is not None
        assert not ticket.done
        gate.let_through()
        assert "Input/output error" in _failure(ticket)
    assert sum(memory.map[4096 * n : 4096 * n + 100] == model[1][n : n + 100] for n in range(5)) == 1


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (Slice(0, _FILE_BYTES - 10, 11), "11 bytes are not inside the file of 300,007"),
        (Slice(0, -1, 5), "not inside"),
        (Slice(0, 0, 0), "not inside"),
        (Slice(1, 0, 5), "there is no file 1 of 1"),
        (Slice(-1, 0, 5), "there is no file -1"),
    ],
)
def test_slices_that_are_not_in_the_files(piece: Slice, message: str, model: tuple[Path, bytes]) -> None:
    memory = Memory()
    with ExpertReader([model[0]]) as reader:
        assert message in _failure(reader.submit("it", [(piece, memory.address)]))
    assert memory.holds_only()


def test_address_zero_is_an_error_and_no_crash(model: tuple[Path, bytes]) -> None:
    with ExpertReader([model[0]]) as reader:
        assert "no destination" in _failure(reader.submit("it", [(Slice(0, 0, 100), 0)]))


def test_files_that_cannot_be_opened(model: tuple[Path, bytes], tmp_path: Path) -> None:
    with pytest.raises(ExpertReadFailed, match=r"none\.gguf: No such file"):
        ExpertReader([model[0], tmp_path / "none.gguf"])
    with pytest.raises(ExpertReadFailed, match=r"model\.gguf: 300,007 bytes instead of 300,008"):
        ExpertReader([model[0]], file_bytes=[_FILE_BYTES + 1])
    with pytest.raises(ValueError, match="0 threads"):
        ExpertReader([model[0]], n_threads=0)


def test_a_thread_that_cannot_start_up_fails_its_tickets(model: tuple[Path, bytes]) -> None:
    def no_start() -> None:
        raise RuntimeError("no OpenMP")

    with ExpertReader([model[0]], on_thread_start=no_start) as reader:
        for _ in range(5):
            assert "RuntimeError: no OpenMP" in _failure(reader.submit("it", [(Slice(0, 0, 9), lambda staged: None)]))


def test_close_finishes_what_is_under_way_and_fails_the_rest(model: tuple[Path, bytes]) -> None:
    gate, memory = Gate(), Memory()
    reader = ExpertReader([model[0]], n_threads=2, pread=gate)
    tickets = [reader.submit(f"{n}", [(Slice(0, n, 100), memory.address + 4096 * n)], urgent=n < 2) for n in range(6)]
    gate.wait_for_arrival()
    gate.wait_for_arrival()
    closing = threading.Thread(target=reader.close)
    closing.start()
    for ticket in tickets[2:]:
        assert "the reader was closed" in _failure(ticket)
    assert closing.is_alive()
    assert not any(ticket.done for ticket in tickets[:2])
    gate.let_through(2)
    closing.join(_TIMEOUT_S)
    assert not closing.is_alive()
    for ticket in tickets[:2]:
        ticket.wait()
    assert memory.holds_only((0, model[1][:100]), (4096, model[1][1:101]))
    assert "3: file 0 at byte 5: the reader was closed" in _failure(
        reader.submit("3", [(Slice(0, 5, 100), memory.address)])
    )
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("direct", [None, False])
@pytest.mark.parametrize("n_threads", [1, 4, 16])
def test_thousands_of_random_reads(n_threads: int, direct: bool | None, tmp_path: Path) -> None:
    """Tickets of one to four parts of all alignments, some cancelled, some hit by faults, from two threads."""
    rng = random.Random(n_threads)
    data = rng.randbytes((8 << 20) + 77)
    path = tmp_path / "big.gguf"
    path.write_bytes(data)
    n_calls = 6000
    faults = {rng.randrange(n_calls): rng.choice([_no_disk, _half, _nothing, _interrupted]) for _ in range(200)}
    outcomes = {"right": 0, "failed": 0, "cancelled": 0}

    def run(seed: int) -> None:
        draw = random.Random(seed)
        memories = [Memory(1 << 17) for _ in range(24)]
        for _ in range(75):
            under_way = []
            for memory in memories:
                memory.map[:] = bytes([_CANARY]) * len(memory.map)
                right, parts = [], []
                for n in range(draw.randint(1, 4)):
                    unit = draw.choice([1, 32, 512, 4096])
                    n_bytes = min(draw.randint(1, 16384 // unit) * unit, 16384)
                    offset = draw.randrange((len(data) - n_bytes) // unit + 1) * unit
                    at = (n << 15) + draw.choice([0, 512, 32, 7])
                    right.append((at, data[offset : offset + n_bytes]))
                    target = memory.address + at
                    copy = lambda staged, target=target, n_bytes=n_bytes: ctypes.memmove(target, staged, n_bytes)  # noqa: E731
                    parts.append((Slice(0, offset, n_bytes), draw.choice([target, copy])))
                ticket = reader.submit("it", parts, urgent=draw.random() < 0.5)
                under_way.append((ticket, memory, right, draw.random() < 0.05 and ticket.cancel()))
            for ticket, memory, right, cancelled in under_way:
                try:
                    ticket.wait()
                except ExpertReadFailed:
                    outcomes["cancelled" if cancelled else "failed"] += 1
                    assert not cancelled or memory.holds_only()
                else:
                    assert memory.holds_only(*right)
                    outcomes["right"] += 1

    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            run(seed)
        except BaseException as error:
            failures.append(error)

    with ExpertReader([path], n_threads=n_threads, direct=direct, pread=Pread(faults)) as reader:
        threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert sum(outcomes.values()) == 2 * 75 * 24
    assert outcomes["failed"] > 50
    assert outcomes["right"] > 3000
