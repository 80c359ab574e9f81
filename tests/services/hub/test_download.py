"""Downloads into a folder: whole, checked, resumed, stopped; what is refused and what is left behind."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant.durable_files import DurableFiles
from quant.errors import OutputBusy, OutputExists, ResumeRefused, WriteFailed
from qwenctl.errors import DoesNotFit, HubAccessRefused, HubUnreachable, TransferDamaged
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.download import DownloadedFile, DownloadOptions, download
from qwenctl.services.hub.download_progress import DownloadProgress
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.slices import SLICE_BYTES
from tests.hub_server.faults import Exchange, Fault
from tests.hub_server.remote_files import remote_files
from tests.hub_server.server import HubServer
from tests.quant.disk_faults import CountingFiles, FailingFiles, PowerLossFiles, PowerLostError

RNG = random.Random(11)
FILES = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "sub/folder/notes.txt": b"x" * 5000,
    "model-00001-of-00002.safetensors": RNG.randbytes(20 * SLICE_BYTES),
    "model-00002-of-00002.safetensors": RNG.randbytes(9 * SLICE_BYTES + 12345),
}
FIRST = "model-00001-of-00002.safetensors"
TOTAL = sum(map(len, FILES.values()))
POLICY = RetryPolicy(n_attempts=4, first_s=0.001, most_s=0.002)


class FullBehind(DurableFiles):
    """A disk that is full for whatever lies at or behind slice `n_slices`, once the first slice was handed over."""

    def __init__(self, n_slices: int) -> None:
        self._full_from_byte = n_slices * SLICE_BYTES
        self._has_first = threading.Event()

    def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
        if offset_bytes == SLICE_BYTES:  # the same connection has brought what lies before
            self._has_first.set()
        if offset_bytes >= self._full_from_byte:
            self._has_first.wait(60)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write_at(fd, data, offset_bytes)


class Lab:
    """A hub with one repository, and a folder to download it to."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.repository = hub.add("o/m", FILES)
        self.notices: list[str] = []

    def remotes(self, *paths: str) -> list[RemoteFile]:
        return [file for file in remote_files(self.hub.url, self.repository) if not paths or file.path in paths]

    def client(self) -> RangeClient:
        return RangeClient(ClientOptions(self.hub.url, retry=POLICY), on_wait=self.notices.append)

    def pull(self, *paths: str, files: DurableFiles | None = None, **options: bool | int) -> list[DownloadedFile]:
        with self.client() as client:
            return download(client, self.remotes(*paths), self.folder, DownloadOptions(**options), files=files)  # type: ignore[arg-type]

    def assert_whole(self) -> None:
        found = {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        assert sorted(found) == sorted(FILES)
        assert all(found[path] == data for path, data in FILES.items())

    def stop_half_way(self, *paths: str) -> int:
        """Let the disk become full; return how many bytes were sent."""
        with pytest.raises(DoesNotFit, match="full"):
            self.pull(*paths, files=FullBehind(10))
        return self.hub.served.total()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with HubServer() as hub:
        yield Lab(hub, tmp_path / "models")


def test_everything_arrives_once(lab: Lab) -> None:
    done = lab.pull()
    lab.assert_whole()
    assert [file.remote.path for file in done] == list(FILES)
    assert [file.n_fetched_bytes for file in done] == [len(data) for data in FILES.values()]
    assert lab.hub.served.total() == TOTAL
    assert lab.notices == []


def test_what_is_there_is_kept_and_what_is_not_the_file_is_refused(lab: Lab) -> None:
    lab.pull()
    lab.hub.served.clear()
    assert sum(file.n_fetched_bytes for file in lab.pull()) == 0
    path = lab.folder / FIRST
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OutputExists, match="is there already"):
        lab.pull()
    assert path.read_bytes() == damaged
    lab.pull(force=True)
    lab.assert_whole()
    assert lab.hub.served.total() == len(FILES[FIRST])


def test_a_full_disk_is_said_and_gone_on_with(lab: Lab) -> None:
    sent = lab.stop_half_way(FIRST)
    assert not (lab.folder / FIRST).exists()
    done = lab.pull()
    lab.assert_whole()
    assert sent + sum(file.n_fetched_bytes for file in done) <= TOTAL + (64 << 20)
    assert sum(file.n_fetched_bytes for file in done) < TOTAL


def test_a_broken_disk_is_said(lab: Lab) -> None:
    with pytest.raises(WriteFailed, match="Input/output error"):
        lab.pull(files=FailingFiles(50, errno.EIO))
    lab.pull()
    lab.assert_whole()


def test_a_disk_that_fails_at_any_operation_leaves_nothing_that_is_not_whole(lab: Lab) -> None:
    counting = CountingFiles()
    lab.pull("sub/folder/notes.txt", files=counting)
    for at in range(1, counting.n_done + 1):
        shutil.rmtree(lab.folder)
        try:
            lab.pull("sub/folder/notes.txt", files=FailingFiles(at, errno.EIO))
        except (WriteFailed, OSError):
            path = lab.folder / "sub/folder/notes.txt"
            assert not path.exists() or path.read_bytes() == FILES["sub/folder/notes.txt"]
        lab.pull("sub/folder/notes.txt")
        assert (lab.folder / "sub/folder/notes.txt").read_bytes() == FILES["sub/folder/notes.txt"]


@pytest.mark.parametrize("at", [8, 30, 60, 85])
def test_power_fails(lab: Lab, at: int) -> None:
    with pytest.raises(PowerLostError):
        lab.pull(FIRST, files=PowerLossFiles(at))
    lab.pull(FIRST)
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


def test_holes_are_not_taken_for_data(lab: Lab) -> None:
    """What is not recorded is fetched, however the bytes at its place look; what is recorded must have its CRC-32."""
    lab.stop_half_way(FIRST)
    partial = lab.folder / f"{FIRST}.partial"
    assert partial.stat().st_size == len(FILES[FIRST])
    partial.write_bytes(bytes(len(FILES[FIRST])))
    (file,) = lab.pull(FIRST)
    assert file.n_fetched_bytes == len(FILES[FIRST])
    assert 0 < file.n_damaged_bytes < len(FILES[FIRST])
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


def test_only_a_damaged_slice_is_fetched_again(lab: Lab) -> None:
    lab.stop_half_way(FIRST)
    partial = lab.folder / f"{FIRST}.partial"
    (undamaged,) = _copy_and_pull(lab)
    data = bytearray(partial.read_bytes())
    data[5] ^= 1  # the first slice is always among the recorded ones
    partial.write_bytes(data)
    (file,) = lab.pull(FIRST)
    assert file.n_damaged_bytes == SLICE_BYTES
    assert file.n_fetched_bytes == undamaged.n_fetched_bytes + SLICE_BYTES
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


def _copy_and_pull(lab: Lab) -> list[DownloadedFile]:
    copy = shutil.copytree(lab.folder, lab.folder.with_name("copy"))
    with lab.client() as client:
        return download(client, lab.remotes(FIRST), copy)


def test_a_byte_changed_on_the_way_is_found_and_mended(lab: Lab) -> None:
    def flip(body: bytes, start: int) -> bytes:
        return body[:9] + bytes([body[9] ^ 4]) + body[10:] if start == 0 else body

    faults = iter([Fault(change=flip)])
    lab.hub.fault = lambda exchange: next(faults, None) if _is_first_run(exchange) else None
    (file,) = lab.pull(FIRST)
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]
    assert file.n_damaged_bytes == SLICE_BYTES
    assert file.n_fetched_bytes == len(FILES[FIRST]) + SLICE_BYTES, "up to the damage, which is in the first slice"


def _is_first_run(exchange: Exchange) -> bool:
    return exchange.server == "storage" and exchange.offset_bytes == 0


def test_storage_that_is_damaged_itself_ends_after_one_full_pass(lab: Lab) -> None:
    lab.hub.fault = lambda exchange: (
        Fault(change=lambda body, start: b"?" + body[1:] if start == 0 else body)
        if exchange.server == "storage"
        else None
    )
    with pytest.raises(TransferDamaged, match="SHA-256"):
        lab.pull(FIRST)
    assert lab.hub.served.total() == 2 * len(FILES[FIRST])
    assert not (lab.folder / FIRST).exists()
    lab.hub.fault = lambda _: None
    lab.pull(FIRST)
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


def test_small_files_are_checked_by_their_git_hash(lab: Lab) -> None:
    lab.hub.fault = lambda exchange: Fault(change=lambda body, _: b"?" + body[1:])
    with pytest.raises(TransferDamaged, match="Git hash"):
        lab.pull("config.json")
    assert not (lab.folder / "config.json").exists()


def test_another_file_of_that_name_is_not_gone_on_with(lab: Lab) -> None:
    lab.stop_half_way(FIRST)
    lab.repository.commit(FILES | {FIRST: FILES[FIRST][::-1]})
    with pytest.raises(ResumeRefused, match="SHA-256") as caught:
        lab.pull(FIRST)
    assert "--restart" in (caught.value.hint or "")
    lab.pull(FIRST, restart=True)
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST][::-1]


def test_a_newer_commit_that_left_the_file_alone_goes_on(lab: Lab) -> None:
    lab.stop_half_way(FIRST)
    lab.repository.commit(FILES | {"config.json": b"{}"})
    (file,) = lab.pull(FIRST)
    assert file.n_fetched_bytes < len(FILES[FIRST])
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


def test_two_processes_do_not_write_one_file(lab: Lab) -> None:
    lab.hub.bytes_per_s = 20e6
    first = threading.Thread(target=lab.pull, args=(FIRST,))
    first.start()
    while not (lab.folder / f"{FIRST}.journal").exists():
        time.sleep(0.005)
    with pytest.raises(OutputBusy, match="is writing this output"):
        lab.pull(FIRST)
    first.join()
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


class SmallDisk(DurableFiles):
    def free_bytes(self, folder: Path) -> int:
        return (256 << 20) + TOTAL - 1


def test_what_does_not_fit_is_refused_before_the_first_byte(lab: Lab) -> None:
    with pytest.raises(DoesNotFit, match="needs"):
        lab.pull(files=SmallDisk())
    assert lab.hub.exchanges == []
    lab.pull("config.json")
    assert lab.pull(FIRST, "config.json", files=SmallDisk()), "what is there already needs no room"


def test_two_files_of_one_name(lab: Lab) -> None:
    with lab.client() as client, pytest.raises(ValueError, match="one name"):
        download(client, lab.remotes(FIRST) * 2, lab.folder)


def test_an_error_of_one_file_ends_all_and_keeps_what_came(lab: Lab) -> None:
    lab.hub.fault = lambda exchange: Fault(status=503) if "00002" in exchange.file else None
    with pytest.raises(HubUnreachable, match="503"):
        lab.pull()
    lab.hub.fault = lambda _: None
    lab.pull()
    lab.assert_whole()


def test_a_gated_repository(lab: Lab) -> None:
    lab.repository.gated = "auto"
    with pytest.raises(HubAccessRefused, match="gated"):
        lab.pull()
    assert [
        path for path in lab.folder.rglob("*") if path.suffix not in (".partial", ".journal") and path.is_file()
    ] in (
        [],
        [lab.folder / "empty.txt"],
    )


def test_progress_grows_to_the_end(lab: Lab) -> None:
    lab.hub.bytes_per_s = 10e6
    seen: list[DownloadProgress] = []
    with lab.client() as client:
        download(client, lab.remotes(), lab.folder, on_progress=seen.append)
    done = [progress.n_done_bytes for progress in seen]
    assert done == sorted(done)
    assert len(seen) >= 3
    assert seen[-1].n_bytes == seen[-1].n_done_bytes == seen[-1].n_fetched_bytes == TOTAL
    assert all(file.is_complete for file in seen[-1].files)
    assert seen[-1].bytes_per_s > 0


@pytest.mark.parametrize("silent", [False, True])
def test_ctrl_c_ends_it_and_the_journal_is_up_to_date(lab: Lab, silent: bool) -> None:
    """Also while the hub says nothing at all: neither headers nor bytes."""
    lab.hub.bytes_per_s = 4e6
    if silent:
        lab.hub.fault = lambda exchange: Fault(delay_s=20.0) if exchange.offset_bytes >= 16 * SLICE_BYTES else None

    def interrupt() -> None:
        while lab.hub.served.total() < 3 * SLICE_BYTES:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        lab.pull(FIRST)
    interrupted_at = lab.hub.served.total()
    lab.hub.fault, lab.hub.bytes_per_s = (lambda _: None), None
    (file,) = lab.pull(FIRST)
    assert file.n_fetched_bytes < len(FILES[FIRST])
    assert interrupted_at + file.n_fetched_bytes < len(FILES[FIRST]) + 16 * SLICE_BYTES
    assert (lab.folder / FIRST).read_bytes() == FILES[FIRST]


def test_signed_addresses_that_grow_old_are_no_reason_to_end(lab: Lab) -> None:
    lab.hub.bytes_per_s = 20e6
    old = threading.Timer(0.1, lab.hub.expire_signatures)
    old.start()
    lab.pull()
    old.join()
    lab.assert_whole()


def test_connections_are_counted() -> None:
    with pytest.raises(ValueError, match="n_connections"):
        DownloadOptions(n_connections=0)
