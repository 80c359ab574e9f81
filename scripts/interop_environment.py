"""Virtual environments with programs that others made, for `make test-interop`: each once, in the user's cache.

    scripts/interop_environment.py [NAME …] [--if-possible]

    scripts/interop/NAME.txt            exact versions, installed with their dependencies
    scripts/interop/NAME.no-deps.txt    optional: installed afterwards, without

Without names, all that have a list. An environment is made anew when its list or the Python changes; it lies in
~/.cache/qwenctl/interop/NAME-DIGEST. With --if-possible, a machine without network gets a line that says so, and exit
code 0; tests that need the environment then skip. Anything else that goes wrong is an error. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

LISTS = Path(__file__).resolve().parent / "interop"
INSTALL_TIMEOUT_S = 3600
_OFFLINE_SIGNS = (
    "NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError", "Network is unreachable",
    "Temporary failure in name resolution", "connection broken",
)  # fmt: skip


class NotMadeError(Exception):
    """Why an environment could not be made."""


class NoNetworkError(NotMadeError):
    """The packages could not be fetched: nothing answered."""


def user_cache() -> Path:
    """Return the folder of this program in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qwenctl"


def environment_names() -> list[str]:
    """Return the names that have a list."""
    return sorted(path.name.removesuffix(".txt") for path in LISTS.glob("*.txt") if path.name.count(".") == 1)


def environment_folder(name: str, cache: Path) -> Path:
    """Return where the environment `name` belongs under `cache`; it need not be there."""
    digest = hashlib.sha256(f"{sys.implementation.name} {sys.version_info[:2]}".encode())
    for path in _lists(name):
        digest.update(path.read_bytes())
    return cache / "interop" / f"{name}-{digest.hexdigest()[:12]}"


def find_python(name: str, cache: Path) -> Path | None:
    """Return the interpreter of the environment `name`, None if it was not made."""
    folder = environment_folder(name, cache)
    return folder / "bin" / "python" if (folder / "complete").is_file() else None


def make_environment(name: str, cache: Path) -> Path:
    """Make the environment `name` unless it is there; return its interpreter.

    Raises:
        NoNetworkError: no package index answers.
        NotMadeError: pip failed in any other way.
    """
    found = find_python(name, cache)
    if found is not None:
        return found
    folder = environment_folder(name, cache)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for path in _lists(name):
        options = ["--no-deps"] if path.name.endswith(".no-deps.txt") else []
        _install(python, [*options, "-r", str(path)])
    (folder / "complete").touch()
    return python


def _lists(name: str) -> list[Path]:
    """Return the lists of an environment, in the order in which they are installed."""
    paths = [LISTS / f"{name}.txt", LISTS / f"{name}.no-deps.txt"]
    return [path for path in paths if path.is_file()]


def _install(python: Path, arguments: list[str]) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotMadeError(f"pip took longer than {INSTALL_TIMEOUT_S} s") from None
    if run.returncode == 0:
        return
    said = run.stdout + run.stderr
    reason = next((line for line in said.splitlines() if line.startswith("ERROR")), f"pip exited with {run.returncode}")
    if any(sign in said for sign in _OFFLINE_SIGNS):
        raise NoNetworkError(f"no package index answers: {reason}")
    raise NotMadeError(reason)


def main() -> int:
    """Make what was asked for; print each interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(environment_names()))
    parser.add_argument("--if-possible", action="store_true")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(environment_names()))
    if unknown:
        parser.error(f"no list for {', '.join(unknown)}; there are {', '.join(environment_names())}")
    for name in options.names or environment_names():
        try:
            if find_python(name, user_cache()) is None:
                print(f"making the environment {name}: up to 4 GB, some minutes", file=sys.stderr)
            print(make_environment(name, user_cache()))
        except NotMadeError as error:
            print(f"the environment {name} was not made: {error}", file=sys.stderr)
            if not (options.if_possible and isinstance(error, NoNetworkError)):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
