"""A conversion of weights that come from elsewhere has the bytes of one from the disk, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from quant import resumable_sha256, stream_run, stream_spans
from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import plan_conversion
from quant.durable_files import DurableFiles
from quant.errors import (
    BadWeights,
    CheckpointError,
    DamagedSource,
    ResumeRefused,
    UnsupportedTensor,
)
from quant.journal import read_state
from quant.libggml import load_libggml
from quant.pipeline import ConversionOutcome
from quant.recipe import OUTPUT_TYPES
from quant.safetensors_read import read_safetensors
from quant.stream_pipeline import run_streamed
from quant.stream_run import StreamOptions, StreamProgress
from tests.packed_checkpoint import Packing, pack_checkpoint
from tests.quant.conversion_runs import SMALLEST, digest, leftovers, run
from tests.quant.stopped_runs import (
    Run,
    each_or_some,
    failing_at_each,
    in_child,
    killed_at_each,
    without_power_at_each,
)
from tests.quant.streamed_folder import StreamedFolder, plan_streamed
from tests.tiny_checkpoint import TinyModel, tiny_weights, write_checkpoint

COMPLETE = {"", ".digests.json"}
WINDOW_BYTES = 256 << 10
LAST_SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def _small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the smallest checkpoint, of 1.3 MB, into a dozen spans instead of two."""
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 64 << 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("smallest"), SMALLEST)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a conversion from the disk."""
    out = tmp_path_factory.mktemp("whole") / "m.gguf"
    run(plan_conversion(folder, OUTPUT_TYPES["q8_0"]), out)
    return digest(out)


def stream(
    folder: Path,
    out: Path,
    source: StreamedFolder | None = None,
    files: DurableFiles | None = None,
    *,
    output_type: str = "q8_0",
    n_threads: int = 2,
    on_progress: Callable[[StreamProgress], None] = lambda _: None,
) -> ConversionOutcome:
    source = source or StreamedFolder()
    options = StreamOptions(n_threads, n_connections=3, window_bytes=WINDOW_BYTES)
    plan = plan_streamed(folder, source, output_type)
    encoder = make_row_encoder(load_libggml(), "fast")
    return run_streamed(plan, source, out, encoder, options, files=files, on_progress=on_progress)


@pytest.mark.parametrize(
    "model",
    [
        TinyModel(n_shards=3),
        TinyModel(fused_experts=True, dtype="F16"),
        TinyModel(architecture="Qwen3ForCausalLM", tied=True, dtype="F32", n_shards=1),
        TinyModel(architecture="Qwen2ForCausalLM", n_heads=4),
    ],
    ids=["experts", "fused", "dense-tied-f32", "qwen2"],
)
@pytest.mark.parametrize("output_type", ["q4_k_m", "bf16"])
def test_the_same_bytes_as_from_the_disk(model: TinyModel, output_type: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source", model)
    run(plan_conversion(folder, OUTPUT_TYPES[output_type]), tmp_path / "disk.gguf")
    source = StreamedFolder()
    stream(folder, tmp_path / "stream.gguf", source, output_type=output_type)
    assert digest(tmp_path / "stream.gguf") == digest(tmp_path / "disk.gguf")
    digests = [(tmp_path / f"{name}.gguf.digests.json").read_bytes() for name in ("disk", "stream")]
    assert digests[0] == digests[1]
    assert leftovers(tmp_path / "stream.gguf") == COMPLETE
    assert source.n_bytes == {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}


def test_no_more_is_asked_for_than_the_window(folder: Path, tmp_path: Path, whole: str) -> None:
    out = tmp_path / "m.gguf"
    ahead = []

    def watch(*_: object) -> None:
        marks = read_state((tmp_path / "m.gguf.journal").read_bytes()).read
        ahead.append(source.n_bytes.total() - sum(mark.n_bytes for mark in marks.values()))

    source = StreamedFolder(watch, latency_s=0.002)
    stream(folder, out, source)
    assert digest(out) == whole
    embeddings = 320 * 256 * 2  # one span: of what is read at once, the window holds two
    assert WINDOW_BYTES // 2 < max(ahead) <= max(WINDOW_BYTES, 2 * embeddings)


def test_progress_ends_at_everything(folder: Path, tmp_path: Path) -> None:
    seen: list[StreamProgress] = []
    stream(folder, tmp_path / "m.gguf", StreamedFolder(latency_s=0.02), on_progress=seen.append)
    n_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert seen[-1].conversion.n_weights_done == seen[-1].conversion.n_weights
    assert (seen[-1].n_bytes_read, seen[-1].n_bytes, seen[-1].n_files_read, seen[-1].n_files) == (
        n_bytes,
        n_bytes,
        2,
        2,
    )
    read = [one.n_bytes_read for one in seen]
    assert read == sorted(read)


# --- stopped ---


_each = each_or_some(11)


@pytest.fixture
def _mark_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_run, "SYNC_S", 0.0)
    monkeypatch.setattr(stream_run, "_POLL_S", 0.0)


def streaming(folder: Path, source: StreamedFolder | None = None) -> Run:
    return lambda out, files: stream(folder, out, source, files)


def check_and_resume(folder: Path, out: Path, whole: str) -> None:
    assert not out.exists() or digest(out) == whole
    if leftovers(out) != COMPLETE:
        stream(folder, out)
    assert (digest(out), leftovers(out)) == (whole, COMPLETE)


@_each
@pytest.mark.usefixtures("_mark_often")
def test_killed_at_an_operation_of_the_disk(folder: Path, tmp_path: Path, whole: str, stride: int) -> None:
    run_with, check = streaming(folder, StreamedFolder(latency_s=0.001)), partial(check_and_resume, folder, whole=whole)
    assert killed_at_each(tmp_path / "m.gguf", stride, run_with, check) > 20


class KillAtFetch:
    """Ends the process by SIGKILL at its Nth fetch."""

    def __init__(self, n_fetches: int) -> None:
        self.n_left = n_fetches

    def __call__(self, *_: object) -> None:
        self.n_left -= 1
        if self.n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("_mark_often")
def test_killed_again_and_again(folder: Path, tmp_path: Path, whole: str) -> None:
    """Each run gets a few spans further than the last, and reads again no more than the window."""
    out = tmp_path / "m.gguf"
    n_kills, marks = 0, 0
    while not out.exists():
        if in_child(lambda: stream(folder, out, StreamedFolder(KillAtFetch(6), latency_s=0.01))) == 0:
            break
        n_kills += 1
        now = sum(mark.n_bytes for mark in read_state((tmp_path / "m.gguf.journal").read_bytes()).read.values())
        assert now >= marks
        marks = now
        assert n_kills < 60
    assert n_kills >= 2
    assert (digest(out), leftovers(out)) == (whole, COMPLETE)


@_each
@pytest.mark.usefixtures("_mark_often")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_disk_fails(folder: Path, tmp_path: Path, whole: str, code: int, stride: int) -> None:
    run_with, check = streaming(folder), partial(check_and_resume, folder, whole=whole)
    assert failing_at_each(tmp_path / "m.gguf", stride, run_with, check, code) > 20


@_each
@pytest.mark.usefixtures("_mark_often")
def test_the_power_fails(folder: Path, tmp_path: Path, whole: str, stride: int) -> None:
    run_with, check = streaming(folder), partial(check_and_resume, folder, whole=whole)
    assert without_power_at_each(tmp_path / "m.gguf", stride, run_with, check) > 20


def test_ctrl_c_does_not_wait_for_the_network(folder: Path, tmp_path: Path, whole: str) -> None:
    never = threading.Event()

    def hang(path: Path, offset_bytes: int, _: memoryview) -> None:
        if path.name == LAST_SHARD:
            never.wait()

    def interrupt(progress: StreamProgress) -> None:
        if progress.n_files_read == 1:
            raise KeyboardInterrupt

    out = tmp_path / "m.gguf"
    with pytest.raises(KeyboardInterrupt):
        stream(folder, out, StreamedFolder(hang), on_progress=interrupt)
    again = StreamedFolder()
    outcome = stream(folder, out, again)
    never.set()
    assert outcome.n_weights_resumed > 0
    assert set(again.n_bytes) == {LAST_SHARD}
    assert digest(out) == whole


def test_the_network_fails(folder: Path, tmp_path: Path, whole: str) -> None:
    def fail(path: Path, offset_bytes: int, _: memoryview) -> None:
        if path.name == LAST_SHARD and offset_bytes:
            raise ValueError("no answer")

    out = tmp_path / "m.gguf"
    with pytest.raises(ValueError, match="no answer"):
        stream(folder, out, StreamedFolder(fail))
    assert not out.exists()
    stream(folder, out)
    assert digest(out) == whole


def test_without_the_extension_a_file_is_begun_again(
    folder: Path, tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable_sha256, "_library", lambda: None)
    test_the_network_fails(folder, tmp_path, whole)


# --- damaged ---


class Damage:
    """Flips a bit of the fetch that holds a byte of a file, the first `n_times` that it is fetched."""

    def __init__(self, name: str, byte: int, n_times: int, value: bytes | None = None) -> None:
        self.name, self.byte, self.n_times, self.value = name, byte, n_times, value

    def __call__(self, path: Path, offset_bytes: int, out: memoryview) -> None:
        at = self.byte - offset_bytes
        if path.name == self.name and 0 <= at < len(out) - 1 and self.n_times:
            self.n_times -= 1
            out[at : at + 2] = self.value or bytes([out[at] ^ 1, out[at + 1]])


def data_start(folder: Path) -> int:
    return min(info.offset_bytes for info in read_safetensors(folder / LAST_SHARD).tensors.values())


@pytest.mark.parametrize("place", ["front", "middle", "end"])
def test_a_bit_that_flips_on_the_way(folder: Path, tmp_path: Path, whole: str, place: str) -> None:
    size, start = (folder / LAST_SHARD).stat().st_size, data_start(folder)
    byte = {"front": start, "middle": size // 2, "end": size - 2}[place]
    source = StreamedFolder(Damage(LAST_SHARD, byte, 1))
    stream(folder, tmp_path / "m.gguf", source)
    assert digest(tmp_path / "m.gguf") == whole
    assert source.n_bytes[LAST_SHARD] == 2 * size
    assert (
        source.n_bytes["model-00001-of-00002.safetensors"]
        == (folder / "model-00001-of-00002.safetensors").stat().st_size
    )


def test_a_file_that_is_always_damaged_is_named(folder: Path, tmp_path: Path, whole: str) -> None:
    out = tmp_path / "m.gguf"
    with pytest.raises(DamagedSource, match=f"{LAST_SHARD}: its SHA-256 is"):
        stream(folder, out, StreamedFolder(Damage(LAST_SHARD, data_start(folder) + 9, 99)))
    assert not out.exists()
    again = StreamedFolder()
    stream(folder, out, again)
    assert (digest(out), set(again.n_bytes)) == (whole, {LAST_SHARD})


def test_damage_that_looks_like_nan_is_fetched_again(folder: Path, tmp_path: Path, whole: str) -> None:
    start = data_start(folder)
    stream(folder, tmp_path / "m.gguf", StreamedFolder(Damage(LAST_SHARD, start + start % 2, 1, b"\xff\x7f")))
    assert digest(tmp_path / "m.gguf") == whole


def test_nan_that_is_really_there(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source", SMALLEST)
    at = data_start(folder)
    with (folder / LAST_SHARD).open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\x7f")
    with pytest.raises(BadWeights, match=LAST_SHARD):
        stream(folder, tmp_path / "m.gguf")


def test_damage_before_a_kill_is_found_after_it(folder: Path, tmp_path: Path, whole: str) -> None:
    """What the saved state has hashed wrongly shows at the end of the file."""
    damage = Damage(LAST_SHARD, data_start(folder), 1)

    def fault(path: Path, offset_bytes: int, out: memoryview) -> None:
        damage(path, offset_bytes, out)
        if path.name == LAST_SHARD and offset_bytes + len(out) == path.stat().st_size:
            raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        stream(folder, tmp_path / "m.gguf", StreamedFolder(fault))
    stream(folder, tmp_path / "m.gguf")
    assert digest(tmp_path / "m.gguf") == whole


def test_another_header_than_was_planned_with(folder: Path, tmp_path: Path) -> None:
    def fault(path: Path, offset_bytes: int, out: memoryview) -> None:
        if offset_bytes == 0 and out[8] == ord("{"):
            out[len(out) - 1] = ord(" ") if out[len(out) - 1] != ord(" ") else ord("\n")

    with pytest.raises(CheckpointError, match="its header is not the one that was read first"):
        stream(folder, tmp_path / "m.gguf", StreamedFolder(fault))


# --- refused ---


def test_packed_weights(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", SMALLEST)
    pack_checkpoint(source, tmp_path / "packed", tiny_weights(SMALLEST), Packing())
    with pytest.raises(UnsupportedTensor, match=r"is packed .* cannot be converted while it is downloaded") as error:
        stream(tmp_path / "packed", tmp_path / "m.gguf")
    assert "pull --raw" in str(error.value.hint)
    assert leftovers(tmp_path / "m.gguf") == set()


def test_a_conversion_of_another_type_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    def fail(path: Path, offset_bytes: int, _: memoryview) -> None:
        if path.name == LAST_SHARD:
            raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        stream(folder, tmp_path / "m.gguf", StreamedFolder(fail))
    with pytest.raises(ResumeRefused, match="output type was q8_0, is f16"):
        stream(folder, tmp_path / "m.gguf", output_type="f16")
