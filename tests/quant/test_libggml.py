"""Finding and binding libggml-base."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quant.errors import NativeLibraryError
from quant.ggml_types import GgmlType
from quant.libggml import LibGgml, load_libggml


def test_says_what_it_loaded(lib: LibGgml) -> None:
    assert lib.version.count(".") == 2
    assert lib.commit.startswith("0c1e570")  # llama-cpp-python 0.3.36; other commits mean other bytes
    assert lib.path.is_file()


def test_folder_without_library(tmp_path: Path) -> None:
    with pytest.raises(NativeLibraryError, match="no libggml-base in"):
        load_libggml(tmp_path)


def test_library_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "libggml-base.so").write_bytes(b"\x7fELF")
    with pytest.raises(NativeLibraryError, match="cannot be used"):
        load_libggml(tmp_path)


def test_library_with_other_types(lib: LibGgml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.libggml.GGML_TYPES", {"F32": GgmlType("F32", 0, 1, 5)})
    with pytest.raises(NativeLibraryError, match="stores type 0 as") as caught:
        load_libggml(lib.path.parent)
    assert lib.version in str(caught.value)


def test_does_not_import_the_engine_and_shares_its_library() -> None:
    """One libggml-base in the process, whichever of the two is loaded first."""
    for first, second in (("ours", "theirs"), ("theirs", "ours")):
        load = {"ours": "from quant.libggml import load_libggml; load_libggml()", "theirs": "import llama_cpp"}
        program = f"""
import sys
{load[first]}
assert {first == "theirs"} == ("llama_cpp" in sys.modules)
{load[second]}
from pathlib import Path
print(len({{line.split()[-1] for line in Path("/proc/self/maps").open() if "libggml-base" in line}}))
"""
        if not Path("/proc/self/maps").exists():
            pytest.skip("no /proc")
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stdout == "1\n", (first, second)
