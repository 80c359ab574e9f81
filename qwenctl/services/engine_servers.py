"""The RPC servers that an engine's process uses: greeted before it starts, watched while it runs, named if it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenctl.services.engine_child import Death
from qwenctl.services.engine_death import hint_of, reason_of
from qwenctl.services.rpc_servers import greet
from qwenctl.services.worker_watch import WorkerWatch

_AGAIN = "start the worker again and repeat the command; batch goes on where it was"


class EngineServers:
    """The servers of one engine.

    Args:
        endpoints: "host:port" of each.

    Raises:
        ModelLoadFailed: one of them does not answer, is busy, or of another version.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = tuple(endpoints)
        self._workers = [endpoint for endpoint in endpoints if greet(endpoint) is not None]
        self._watch: WorkerWatch | None = None
        self._lost: str | None = None

    def watch(self, end: Callable[[], None]) -> None:
        """Call `end` as soon as a worker is lost or hangs; it ends the engine's process, which waits for it."""

        def on_lost(endpoint: str, reason: str) -> None:
            self._lost = f"the worker {endpoint} {reason}"
            end()

        self._watch = WorkerWatch(self._workers, on_lost)

    def reason_of(self, death: Death) -> tuple[str, str | None]:
        """Return why the process ended, in one line, and the next step."""
        if self._lost is not None:
            return self._lost, _AGAIN
        return reason_of(death, self._endpoints), hint_of(death, self._endpoints)

    def close(self) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.close()
