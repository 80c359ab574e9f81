"""A request as its keeper outside the engine sees it: what it brought, and a last event in the engine's place."""

from __future__ import annotations

from qwenctl.core import Finished, FinishReason, GenerationRequest, Timing, Usage

_NO_TIME = Timing(0.0, 0.0, 0.0, 0)


class UnderWay:
    """A request that has not had its last event."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.n_tokens = 0  # generated, as far as its events have said

    def finish(self, reason: FinishReason, error: str | None = None) -> Finished:
        """Return a last event in place of the engine's."""
        usage = Usage(len(self.request.prompt_tokens), 0, self.n_tokens)
        return Finished(self.request.request_id, reason, usage, _NO_TIME, error)
