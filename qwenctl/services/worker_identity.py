"""What `qwenctl worker` says of itself, on the port on which it serves ggml's RPC, also while it serves a client.

    → qwenctl hello\\n      ← one line of JSON: a WorkerIdentity
    → qwenctl watch\\n      ← alive\\n, every second as long as the process that computes is there and not stopped

A client of ggml's starts with the byte 14, so the first byte tells them apart; llama.cpp's own rpc-server closes the
connection on the letter q. Values and their lines only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from quant.libggml import load_libggml
from qwenctl.moe import ggml_abi as abi

HELLO, WATCH, ALIVE = b"qwenctl hello\n", b"qwenctl watch\n", b"alive\n"
ALIVE_EVERY_S = 1.0
MOST_LINE_BYTES = 4096
_UNKNOWN = "unknown"  # the commit, where a build found no git to ask


@dataclass(frozen=True, slots=True)
class GgmlBuild:
    """Which ggml. `commit` may be a prefix, of any length, or "unknown"."""

    version: str
    commit: str

    def agrees(self, other: GgmlBuild) -> bool:
        """Return whether both are the same as far as can be known: versions equal, commits too where both have one."""
        if self.version != other.version:
            return False
        if _UNKNOWN in (self.commit, other.commit):
            return True
        n_digits = min(len(self.commit), len(other.commit))
        return self.commit[:n_digits] == other.commit[:n_digits]

    def __str__(self) -> str:
        return f"{self.version} ({self.commit})"


PINNED_BUILD = GgmlBuild(abi.GGML_VERSION, abi.GGML_COMMIT)


def installed_build() -> GgmlBuild:
    """Return the ggml of this program. An sdist's commit ends in "-dirty", since it lacks files of git's list."""
    library = load_libggml()
    return GgmlBuild(library.version, library.commit.removesuffix("-dirty"))


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Versions, and whether somebody is served."""

    version: str  # of qwenctl
    rpc: str  # of ggml's protocol, "7.0.0"
    ggml: GgmlBuild
    busy: bool

    def line(self) -> bytes:
        """Return it as it is sent."""
        return json.dumps({"worker": "qwenctl", **asdict(self)}).encode() + b"\n"


def parse_identity(line: bytes) -> WorkerIdentity | None:
    """Return what a line says; None: it is not from a worker."""
    try:
        found = json.loads(line)
        ggml = GgmlBuild(str(found["ggml"]["version"]), str(found["ggml"]["commit"]))
        if found["worker"] != "qwenctl":
            return None
        return WorkerIdentity(str(found["version"]), str(found["rpc"]), ggml, found["busy"] is True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
