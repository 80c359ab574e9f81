"""The pinned release is fetched without building it, its headers are kept once, and what they declare is read right."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from scripts.native_build import headers, release
from scripts.native_build.abi_program import enumerators, field_names, program
from scripts.native_build.build import BuildFailedError, requirement_line
from scripts.native_build.headers import keep_headers, read_headers, user_headers
from scripts.native_build.recipe import SDIST_SHA256, VERSION

HEADER = """
struct ggml_backend_thing_i {
    const char * (*get_name)(ggml_backend_t backend);
    enum ggml_status          (*graph_compute)     (ggml_backend_t backend, struct ggml_cgraph * cgraph);
};
struct ggml_tensor {
    enum ggml_type type;
    int64_t ne[GGML_MAX_DIMS];
    struct ggml_tensor ** nodes;
    int32_t op_params[GGML_MAX_OP_PARAMS / sizeof(int32_t)];
    struct ggml_hash_set visited;
};
enum ggml_op {
    GGML_OP_NONE = 0,

    GGML_OP_DUP,
    GGML_OP_GLU = 1 << 3,
    GGML_OP_COUNT,
};
enum ggml_op ggml_get_op(void);
"""


def _sdist(folder: Path) -> Path:
    """Write a release with one line in each header, whose build would fail."""
    root = f"llama_cpp_python-{VERSION}"
    backend = 'requires = ["scikit-build-core"]\nbuild-backend = "scikit_build_core.build"\n'
    texts = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {VERSION}\n",
        "pyproject.toml": f"[build-system]\n{backend}",
        "CHANGELOG.md": f"## [Unreleased]\n\n## [{VERSION}]\n\n- feat: to ggml-org/llama.cpp@0123abcde\n\n## [0.1.0]\n",
        "vendor/llama.cpp/ggml/CMakeLists.txt": "".join(
            f"set(GGML_VERSION_{part} {number})\n" for part, number in (("MAJOR", 1), ("MINOR", 22), ("PATCH", 3))
        ),
    }
    texts |= {name: f"// {name}\n" for name in headers._HEADERS}
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_headers_and_facts_are_kept(tmp_path: Path) -> None:
    kept = keep_headers(_sdist(tmp_path), tmp_path / "cache")
    assert (kept.release, kept.ggml_version, kept.commit) == (VERSION, "1.22.3", "0123abcde")
    assert read_headers(tmp_path / "cache") == kept
    assert "ggml/src/ggml-impl.h" in (tmp_path / "cache" / "ggml-impl.h").read_text()


def test_a_cache_that_is_not_whole_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_headers(_sdist(tmp_path), tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(headers, "SDIST_SHA256", "another release")
        assert read_headers(kept.folder) is None
    (kept.folder / "ggml.h").unlink()
    assert read_headers(kept.folder) is None
    assert read_headers(tmp_path / "nowhere") is None


def test_the_release_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist, fetched = _sdist(tmp_path), []
    monkeypatch.setattr(headers, "download_sdist", lambda folder, environ: fetched.append(folder) or sdist)
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    first = user_headers(environ)
    assert user_headers(environ) == first
    assert len(fetched) == 1
    assert first.folder == tmp_path / "qwenctl" / "wheels" / f"headers-{VERSION}"


def _pip_environment(index: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}


def test_pip_fetches_the_release_and_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, target = tmp_path / "index", tmp_path / "target"
    index.mkdir()
    target.mkdir()
    sdist = _sdist(index)
    monkeypatch.setattr(release, "SDIST_SHA256", hashlib.sha256(sdist.read_bytes()).hexdigest())
    fetched = release.download_sdist(target, _pip_environment(index))
    assert fetched.parent == target
    assert fetched.read_bytes() == sdist.read_bytes()


def test_other_bytes_and_an_index_without_it_are_told(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError) as missing:
        release.download_sdist(tmp_path / "first", _pip_environment(tmp_path))
    assert "package index was not reached" in missing.value.hint
    _sdist(tmp_path)
    with pytest.raises(BuildFailedError) as other:
        release.download_sdist(tmp_path / "second", _pip_environment(tmp_path))
    assert "other bytes" in other.value.hint


def test_the_build_takes_the_fetched_file_by_its_hash(tmp_path: Path) -> None:
    line = requirement_line(tmp_path / "a release.tar.gz")
    assert f"llama-cpp-python @ {tmp_path.as_uri()}/a%20release.tar.gz --hash=sha256:{SDIST_SHA256} " in line
    assert '--config-settings "wheel.exclude=' in line


def test_names_that_a_header_declares() -> None:
    assert field_names(HEADER, "ggml_backend_thing_i") == ["get_name", "graph_compute"]
    assert field_names(HEADER, "ggml_tensor") == ["type", "ne", "nodes", "op_params", "visited"]
    assert enumerators(HEADER, "ggml_op") == ["GGML_OP_NONE", "GGML_OP_DUP", "GGML_OP_GLU"]


def test_a_struct_that_the_headers_lack_is_named() -> None:
    with pytest.raises(ValueError, match="define struct ggml_backend 0 times"):
        field_names(HEADER, "ggml_backend")
    with pytest.raises(ValueError, match="ggml_init_params"):
        program(HEADER)
