"""What an engine asks of a prefix cache, answered by one that keeps nothing on disk."""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.services.kv_cache import KvCache
from qwenctl.services.kv_slots import Slot
from qwenctl.services.step_plan import Chunk


class MemoryOnly:
    """No prefix cache. disk_prefixes.py overrides all of it."""

    def restore(self, cache: KvCache, slot: Slot, prompt: Sequence[int]) -> int:  # noqa: ARG002
        """Return how many tokens of `prompt` were read into `slot`: none."""
        return 0

    def computing(self) -> None:
        """Take the time."""

    def computed(self, pieces: Sequence[tuple[Slot, int, Chunk]]) -> None:
        """Learn how long pieces of prompts took."""

    def offer(self, slot: Slot, n_prompt: int) -> None:
        """A request is over."""

    def write(self) -> None:
        """The engine is idle."""

    def settle(self) -> None:
        """Wait until the cells may be changed: they may."""

    def close(self) -> None:
        """Wait for what is being written."""
