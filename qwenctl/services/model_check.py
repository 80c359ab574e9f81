"""Whether a model's files hold what they should: by the digests of their tensors, or by the hub's hash of each file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quant.errors import DamagedFile
from quant.verify import OnProgress, VerifyReport, digest_path, verify_file
from qwenctl.services.hub.hashing import sha256_of
from qwenctl.services.model_origin import Origin, OriginFile, read_origin
from qwenctl.services.split_files import model_files


def check_model(path: Path, on_progress: OnProgress = lambda *_: None) -> VerifyReport:
    """Read all of a model, and hold it against everything that is known of it.

    In the report, files that have digests and files whose hash the hub named count alike: every bit was checked.

    Args:
        path: its first file.
        on_progress: called with (bytes done, bytes in all), for each way of checking anew.

    Raises:
        DamagedFile: names the tensors, or the file, whose bytes have changed.
        GgufError: the structure is broken, and nothing is known that would say where.
        JsonFileError: the digests or the record are unreadable.
    """
    origin = read_origin(path)
    known = [] if origin is None else _hashed_by_hub(path, origin)
    total_bytes, done_bytes = sum(file.n_bytes for _, file in known), 0

    def read(n_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += n_bytes
        on_progress(done_bytes, total_bytes)

    for part, file in known:
        if not part.is_file() or part.stat().st_size != file.n_bytes:
            raise _damaged(part, f"its length, which should be {file.n_bytes:,} bytes", origin)
        if sha256_of(part, read) != file.sha256:
            raise _damaged(part, "its bytes, which have another hash than the hub named", origin)
    report = verify_file(path, on_progress)
    return replace(report, n_files_with_digests=report.n_files_with_digests + len(known))


def _hashed_by_hub(path: Path, origin: Origin) -> list[tuple[Path, OriginFile]]:
    """Return the files without digests whose hash the record tells."""
    by_name = {file.name: file for file in origin.files if file.sha256}
    parts = [part for part in model_files(path) if part.name in by_name and not digest_path(part).exists()]
    return [(part, by_name[part.name]) for part in parts]


def _damaged(part: Path, what: str, origin: Origin | None) -> DamagedFile:
    error = DamagedFile(part, (what,))
    if origin is not None:
        error.hint = f"fetch it again: qwenctl pull {origin.asked} --force"
    return error
