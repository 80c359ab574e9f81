"""Keep wheels in the user's cache, try them in a child process, put them into the virtual environment, remember it.

CACHE/<key>/llama_cpp_python-….whl      built and smoke-tested
CACHE/<key>/recipe.json                 what the key stands for
CACHE/<key>/untrusted                   the smoke test failed: why. Not built again.
.venv/qwenctl-native.json               the stamp: what is installed, and what its files looked like
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .recipe import Recipe

SMOKE_TEST = Path(__file__).with_name("smoke_test.py")
SMOKE_TEST_TIMEOUT_S = 120

STAMP = Path(sys.prefix) / "qwenctl-native.json"


class UntrustedLibraryError(Exception):
    """The library died or computed nonsense. `lasting`: it would again."""

    def __init__(self, message: str, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class WheelCache:
    """The wheels of one user."""

    folder: Path

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> WheelCache:
        """Return XDG_CACHE_HOME/qwenctl/wheels, or the same below ~/.cache."""
        base = environ.get("XDG_CACHE_HOME")
        return cls((Path(base) if base else Path.home() / ".cache") / "qwenctl" / "wheels")

    def find(self, recipe: Recipe) -> Path | None:
        """Return the wheel of this recipe, if there is one."""
        return next(iter(sorted((self.folder / recipe.key).glob("*.whl"))), None)

    def keep(self, recipe: Recipe, wheel: Path) -> Path:
        """Move a tested wheel into the cache; the name appears only when the file is complete."""
        folder = self._prepare(recipe)
        partial = folder / (wheel.name + ".partial")
        shutil.move(wheel, partial)
        return partial.rename(folder / wheel.name)

    def distrust(self, recipe: Recipe, reason: str) -> None:
        """Remember that this recipe gives a library that must not be used."""
        folder = self._prepare(recipe)
        (folder / "untrusted").write_text(reason + "\n")
        for wheel in folder.glob("*.whl"):
            wheel.unlink()

    def distrusts(self, recipe: Recipe) -> str | None:
        """Return why this recipe must not be built, or None."""
        path = self.folder / recipe.key / "untrusted"
        return path.read_text().strip() if path.exists() else None

    def _prepare(self, recipe: Recipe) -> Path:
        folder = self.folder / recipe.key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
        return folder


def smoke_test(lib_folder: Path) -> dict[str, object]:
    """Run the smoke test on the libraries in `lib_folder`, in a child process that may die.

    Raises:
        UntrustedLibraryError: it died, hung, or found something wrong.
    """
    command = [sys.executable, "-I", str(SMOKE_TEST), str(lib_folder)]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SMOKE_TEST_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UntrustedLibraryError(f"it hung for {SMOKE_TEST_TIMEOUT_S} s", lasting=False) from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise UntrustedLibraryError(f"it died of {name}", lasting=name in ("SIGILL", "SIGSEGV", "SIGABRT", "SIGFPE"))
    if child.returncode > 0:
        reason = (child.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UntrustedLibraryError(reason, lasting=True)
    return dict(json.loads(child.stdout.strip().splitlines()[-1]))


def smoke_test_wheel(wheel: Path) -> dict[str, object]:
    """Unpack a wheel beside and smoke-test it, so that nothing untried is ever installed."""
    with tempfile.TemporaryDirectory(prefix="qwenctl-smoke-") as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        return smoke_test(Path(folder) / "llama_cpp" / "lib")


def lib_folder() -> Path:
    """Return where the installed libraries are, or would be."""
    return Path(sysconfig.get_path("platlib")) / "llama_cpp" / "lib"


def install(wheel: Path, recipe: Recipe, choices: Mapping[str, str]) -> dict[str, object]:
    """Install a wheel into this virtual environment, smoke-test it there, and write the stamp.

    Raises:
        UntrustedLibraryError: the installed library failed; it is uninstalled again.
    """
    STAMP.unlink(missing_ok=True)
    _pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    share_copies(lib_folder())
    try:
        findings = smoke_test(lib_folder())
    except UntrustedLibraryError:
        uninstall()
        raise
    stamp = {"key": recipe.key, "choices": dict(choices), "files": _file_facts(), "smoke_test": findings}
    STAMP.write_text(json.dumps(stamp, indent=2) + "\n")
    return findings


def uninstall() -> None:
    """Remove llama-cpp-python from this virtual environment."""
    STAMP.unlink(missing_ok=True)
    _pip("uninstall", "--yes", "llama-cpp-python")


def read_stamp() -> dict[str, Any]:
    """Return the stamp if what it describes is still what is installed, else nothing."""
    try:
        stamp = json.loads(STAMP.read_text())
        return dict(stamp) if stamp["files"] == _file_facts() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def share_copies(folder: Path) -> None:
    """Make equal libraries one file under several names.

    A wheel cannot hold links, so libggml-base.so and libggml-base.so.0 are two files: whoever loads one by its path
    while libllama brought in the other has two libraries in the process, each with its own tables and log callback.
    """
    for short in sorted(folder.glob("*.so")):
        for long in sorted(folder.glob(f"{short.name}.*")):
            if short.read_bytes() == long.read_bytes() and not short.samefile(long):
                link = long.with_name(long.name + ".link")
                try:
                    os.link(short, link)
                except OSError:  # a file system without hard links
                    link.symlink_to(short.name)
                link.replace(long)


def _file_facts() -> dict[str, list[int]]:
    """Return {library: [size, mtime_ns]} of what is installed."""
    return {
        path.name: [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(lib_folder().glob("lib*"))
        if path.is_file()
    }


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
