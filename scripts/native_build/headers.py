"""Keep the headers of the pinned release in the user's cache, and fetch the release when they are not there.

CACHE/headers-<version>/<header>.h      as the release holds them, in one folder
CACHE/headers-<version>/release.json    which release, and ggml's version and commit in it
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .install import WheelCache
from .recipe import SDIST_SHA256, VERSION
from .release import download_sdist

_GGML = "vendor/llama.cpp/ggml"
_HEADERS = (
    "vendor/llama.cpp/include/llama.h",
    *(f"{_GGML}/include/{name}.h" for name in ("ggml", "ggml-alloc", "ggml-backend", "ggml-cpu", "ggml-opt", "gguf")),
    f"{_GGML}/src/ggml-impl.h",
    f"{_GGML}/src/ggml-backend-impl.h",
)
_FACTS = "release.json"


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of one release in a folder."""

    folder: Path
    release: str  # of llama-cpp-python
    ggml_version: str
    commit: str  # of llama.cpp, all 40 digits

    def files(self) -> list[Path]:
        """Return the header files."""
        return [self.folder / Path(name).name for name in _HEADERS]


def user_headers(environ: Mapping[str, str]) -> Headers:
    """Return the pinned release's headers from the user's cache; the first time, fetch the release.

    Raises:
        BuildFailedError: not in the cache, and pip could not fetch the release.
    """
    folder = headers_folder(environ)
    if headers := read_headers(folder):
        return headers
    print(f"fetching llama-cpp-python {VERSION} (80 MB) for its headers, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="qwenctl-sdist-") as scratch:
        return keep_headers(download_sdist(Path(scratch), environ), folder)


def headers_folder(environ: Mapping[str, str]) -> Path:
    """Return where the pinned release's headers are kept, beside its wheels."""
    return WheelCache.of_user(environ).folder / f"headers-{VERSION}"


def read_headers(folder: Path) -> Headers | None:
    """Return what a cache folder holds, or None where it is not whole or of another release."""
    try:
        facts = json.loads((folder / _FACTS).read_text())
        headers = Headers(folder, facts["release"], facts["ggml_version"], facts["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = facts.get("sdist_sha256") == SDIST_SHA256 and all(path.is_file() for path in headers.files())
    return headers if whole else None


def keep_headers(sdist: Path, folder: Path) -> Headers:
    """Copy the headers out of a release into a cache folder; the file of facts comes last, when all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FACTS).unlink(missing_ok=True)
    root = f"llama_cpp_python-{VERSION}"
    wanted = {f"{root}/{name}": name for name in (*_HEADERS, f"{_GGML}/CMakeLists.txt", "CHANGELOG.md")}
    texts = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            if member.name in wanted and (file := archive.extractfile(member)):
                texts[wanted[member.name]] = file.read().decode()
    for name in _HEADERS:
        (folder / Path(name).name).write_text(texts[name], encoding="utf-8")
    facts = {
        "release": VERSION,
        "sdist_sha256": SDIST_SHA256,
        "ggml_version": _ggml_version(texts[f"{_GGML}/CMakeLists.txt"]),
        "commit": _commit(texts["CHANGELOG.md"]),
    }
    partial = folder / (_FACTS + ".partial")
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.replace(folder / _FACTS)
    return Headers(folder, facts["release"], facts["ggml_version"], facts["commit"])


def _ggml_version(cmake: str) -> str:
    return ".".join(re.findall(r"set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", cmake))


def _commit(changelog: str) -> str:
    """Return the llama.cpp commit of the newest entry, at the length at which the changelog writes it."""
    newest = changelog.split(f"## [{VERSION}]", 1)[1]
    return re.search(r"llama\.cpp@([0-9a-f]{7,40})", newest)[1]  # type: ignore[index]
