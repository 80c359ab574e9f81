"""What a model's routing was like, from one run to the next: found in the cache folder, put back when a model closes.

A warm start only: which experts to read first, and which layers to give more slots. Losing it loses nothing but time,
so nothing here fails.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from quant.gguf_read import GgufFile
from qwenctl.moe.expert_session import ExpertSession
from qwenctl.moe.routing_profile import RoutingProfile, read_profile, write_profile

_FOLDER = "routing"


class RoutingMemory:
    """The profile of one model, for one session.

    Args:
        gguf: the model's header.
        session: that runs it.
        folder: the cache folder.
    """

    def __init__(self, gguf: GgufFile, session: ExpertSession, folder: Path) -> None:
        self._session = session
        self._path = folder / _FOLDER / f"{_name_of(gguf)}.json"
        layers = [layer.index for layer in session.experts.layers]
        self._profile: RoutingProfile
        self._profile, _ = read_profile(self._path, layers, session.experts.n_experts)

    def start(self) -> None:
        """Begin to read what was used most."""
        self._session.warm_start(self._profile)

    def keep(self) -> None:
        """Put what the session saw into the folder."""
        after = self._session.profile_after(self._profile)
        if after is not None:
            with suppress(OSError):
                write_profile(self._path, after)


def _name_of(gguf: GgufFile) -> str:
    """A name for the model, the same wherever its file lies: its own name, its size and its tensors."""
    name = str(gguf.metadata.get("general.name", ""))
    tensors = ",".join(f"{info.name}:{info.dtype}" for info in gguf.tensors.values())
    return hashlib.sha256(f"{name}|{gguf.size_bytes}|{tensors}".encode()).hexdigest()[:24]
