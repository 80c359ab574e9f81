"""Fetch the pinned release of llama-cpp-python, an sdist of 80 MB, from pip's index, without building anything of it.

`pip download` knows the user's index and checks the hash; but it asks an sdist's build backend for its name, and the
backend would have to be installed first. So for the length of that question a stand-in of ten lines is the backend.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .build import BuildFailedError, diagnose
from .recipe import SDIST_SHA256, VERSION

_STAND_IN = f"""
import pathlib

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder) / "llama_cpp_python-{VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: {VERSION}\\n")
    return info.name

def build_wheel(folder, config_settings=None, metadata_folder=None):
    raise NotImplementedError("this backend only knows a name")
"""


def download_sdist(folder: Path, environ: Mapping[str, str]) -> Path:
    """Fetch the pinned release into `folder`.

    Raises:
        BuildFailedError: pip failed: the index was not reached, or served other bytes.
    """
    backend = folder / "stand-in" / "scikit_build_core"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build.py").write_text(_STAND_IN)
    requirements = folder / "release.txt"
    requirements.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--no-build-isolation", "--require-hashes", "--no-cache-dir"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    environment = dict(environ) | {"PYTHONPATH": str(backend.parent)}
    run = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = list(folder.glob("*.tar.gz"))
    if run.returncode != 0 or len(found) != 1:
        lines, hint = diagnose(f"{run.stdout}\n{run.stderr}")
        raise BuildFailedError("\n".join(lines), hint)
    return found[0]
