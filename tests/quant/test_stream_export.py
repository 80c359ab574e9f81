"""An export of weights that come from elsewhere is the folder that one from the disk is, whatever happens."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from quant import export_encoder, stream_run, stream_spans
from quant.durable_files import DurableFiles
from quant.errors import DamagedSource, NotEnoughDisk, UnsupportedTensor
from quant.export_pipeline import ExportOutcome
from quant.export_plan import ExportPlan
from quant.export_stream import plan_export_spans, run_streamed_export
from quant.stream_run import StreamOptions, StreamProgress
from tests.quant.disk_faults import FailingFiles
from tests.quant.export_runs import SMALLEST, beside, digest, run, small_plan, statistics, written_moments
from tests.quant.stopped_runs import each_or_some, killed_at_each
from tests.quant.streamed_folder import StreamedFolder
from tests.tiny_checkpoint import write_checkpoint

LAST_SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read each matrix in several pieces, each a span, as with large ones."""
    monkeypatch.setattr(export_encoder, "CHUNK_WEIGHTS", 32 * 128)
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 6000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source"), SMALLEST)


def streamed_plan(folder: Path, source: StreamedFolder, kind: str = "awq", **given) -> ExportPlan:
    return small_plan(folder, kind, files=source, **given)


def stream(
    plan: ExportPlan, source: StreamedFolder, out: Path, files: DurableFiles | None = None, **given
) -> ExportOutcome:
    options = StreamOptions(2, n_connections=3, window_bytes=64 << 10)
    return run_streamed_export(plan, source, out, options, files=files, **given)


@pytest.mark.parametrize("kind", ["awq", "gptq"])
@pytest.mark.parametrize("known", ["nothing", "imatrix", "moments"])
def test_the_same_folder_as_from_the_disk(folder: Path, tmp_path: Path, kind: str, known: str) -> None:
    imatrix, entries = statistics(small_plan(folder))
    moments = written_moments(tmp_path / "moments.safetensors", entries)
    given = {"nothing": {}, "imatrix": {"imatrix": imatrix}, "moments": {"imatrix": imatrix, "moments": moments}}[known]
    run(small_plan(folder, kind, **given), tmp_path / "disk")
    source = StreamedFolder()
    seen: list[StreamProgress] = []
    stream(streamed_plan(folder, source, kind, **given), source, tmp_path / "stream", on_progress=seen.append)
    assert digest(tmp_path / "stream") == digest(tmp_path / "disk")
    assert source.n_bytes == {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    assert seen[-1].n_bytes_read == seen[-1].n_bytes
    assert beside(tmp_path / "stream") == set()


def test_matrices_are_read_in_pieces(folder: Path) -> None:
    source = StreamedFolder()
    spans = plan_export_spans(streamed_plan(folder, source), source)
    assert sum(not span.ends_units for span in spans) > 10


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of an undisturbed export from the disk, with pieces as large as they are."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(small_plan(folder), out)
    return digest(out)


@each_or_some(23)
def test_killed(folder: Path, tmp_path: Path, whole: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_run, "SYNC_S", 0.0)
    monkeypatch.setattr(stream_run, "_POLL_S", 0.0)
    source = StreamedFolder(latency_s=0.0005)
    plan = streamed_plan(folder, source)

    def check(out: Path) -> None:
        if not out.exists() or beside(out):
            stream(plan, source, out)
        assert (digest(out), beside(out)) == (whole, set())

    assert killed_at_each(tmp_path / "out", stride, partial(stream, plan, source), check) > 40


def test_the_disk_is_full(folder: Path, tmp_path: Path, whole: str) -> None:
    source = StreamedFolder()
    plan = streamed_plan(folder, source)
    with pytest.raises(NotEnoughDisk):
        stream(plan, source, tmp_path / "out", FailingFiles(60, 28))
    stream(plan, source, tmp_path / "out")
    assert digest(tmp_path / "out") == whole


def test_what_is_damaged_is_fetched_again_or_named(folder: Path, tmp_path: Path, whole: str) -> None:
    n_left = 1

    def flip(path: Path, offset_bytes: int, out: memoryview) -> None:
        nonlocal n_left
        if path.name == LAST_SHARD and offset_bytes > 8000 and n_left:
            n_left -= 1
            out[3] ^= 1

    source = StreamedFolder(flip)
    plan = streamed_plan(folder, source)
    stream(plan, source, tmp_path / "out")
    assert digest(tmp_path / "out") == whole
    n_left = 99
    with pytest.raises(DamagedSource, match=LAST_SHARD):
        stream(plan, source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_matrix_too_large_for_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "MAX_STRETCH_BYTES", 10_000)
    source = StreamedFolder()
    plan = streamed_plan(folder, source)
    with pytest.raises(UnsupportedTensor, match="bytes would have to be read for one piece of work"):
        plan_export_spans(plan, source)
